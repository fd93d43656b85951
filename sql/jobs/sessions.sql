-- Pages per session as it grows, and once more when it is finished; reprocessing writes the same topic.
CREATE JOB visits_counter
  WITH ('trigger' '100 milliseconds')
AS INSERT INTO visits_counter (visit_id, visited_pages, is_finished)
   SELECT to_char(window_start, '%Y%m%d_%H%M%S') || '-' || user_id, count(*), is_final()
   FROM SESSION(TABLE visits PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes')
   GROUP BY user_id, window_start
   EMIT CHANGES;
