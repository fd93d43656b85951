-- Converts records of the archive again: those between two offsets per partition, end exclusive.
INSERT INTO visits_converted (event_identifier, visit_identifier, event_time, visited_page, headers)
SELECT event_id, visit_id, event_time, page, MAP {'source': 'reprocessing', 'run_id': $run_id}
FROM visits_paris_archive
WHERE offsets_in(partition, "offset", $from, $to);
