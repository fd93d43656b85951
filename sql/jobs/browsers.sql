-- Visits per browser and window, as they grow: a row for every window that a batch touched.
CREATE JOB browsers
  WITH ('trigger' '100 milliseconds')
AS INSERT INTO browser_stats
   SELECT browser, named_struct('start', window_start, 'end', window_end), count(*), max("eventTime")
   FROM TUMBLE(TABLE browser_visits, DESCRIPTOR("eventTime"), INTERVAL '5 minutes')
   GROUP BY browser, window_start, window_end
   EMIT CHANGES;
