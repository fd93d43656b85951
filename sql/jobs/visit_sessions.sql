-- Each visit once, when it has been silent for 16 minutes: its pages in the order of their time.
CREATE JOB visit_sessions
  WITH ('trigger' '100 milliseconds')
AS INSERT INTO sessions
   SELECT visit_id,
          min(user_id),
          min(event_time),
          max(event_time),
          array_agg(named_struct('page', page, 'event_time_as_milliseconds', CAST(event_time AS BIGINT) / 1000)
                    ORDER BY event_time),
          (CAST(max(event_time) AS BIGINT) - CAST(min(event_time) AS BIGINT)) / 1000
   FROM SESSION(TABLE page_views PARTITION BY visit_id, DESCRIPTOR(event_time), INTERVAL '16 minutes')
   GROUP BY visit_id, window_start;
