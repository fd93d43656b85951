-- Sends every session that has a visit in [$from, $to) again, whole, marked with its run.
INSERT INTO visits_counter (visit_id, visited_pages, is_finished, headers)
SELECT to_char(window_start, '%Y%m%d_%H%M%S') || '-' || user_id,
       count(*),
       is_final(),
       MAP {'source': 'reprocessing', 'run_id': $run_id}
FROM COMPLETE_SESSIONS(TABLE visits_archive PARTITION BY user_id, DESCRIPTOR(event_time),
                       INTERVAL '10 minutes', TIMESTAMP $from, TIMESTAMP $to)
GROUP BY user_id, window_start;
