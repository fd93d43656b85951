-- Visits per window of ten minutes, each window once: when no more visits are accepted for it.
CREATE JOB visits_windows_closed
  WITH ('trigger' '100 milliseconds')
AS INSERT INTO visits_windows
   SELECT window_start, window_end, count(*)
   FROM TUMBLE(TABLE visits_events, DESCRIPTOR(event_time), INTERVAL '10 minutes')
   GROUP BY window_start, window_end;
