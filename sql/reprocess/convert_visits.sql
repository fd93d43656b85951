-- Runs the job convert_visits again for the records between two offsets per partition, end exclusive.
REPROCESS JOB convert_visits OFFSETS FROM $from TO $to WITH ('run_id' $run_id);
