-- Converts what is in the topic.
INSERT INTO visits_converted (event_identifier, visit_identifier, event_time, visited_page)
SELECT event_id, visit_id, event_time, page FROM visits_paris;
