-- Runs the job visits_counter again for every session that has a visit in [$from, $to), whole, and writes all of them.
REPROCESS JOB visits_counter FROM $from TO $to EMIT ALL WITH ('run_id' $run_id);
