-- Converts visits as they arrive, each exactly once.
CREATE JOB convert_visits
  WITH ('trigger' '100 milliseconds')
AS INSERT INTO visits_converted (event_identifier, visit_identifier, event_time, visited_page)
   SELECT event_id, visit_id, event_time, page FROM visits_paris;
