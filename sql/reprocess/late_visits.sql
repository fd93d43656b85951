-- Plans the repair of what came late: the sessions of the late rows, whole. Nothing is written until APPLY RUN.
PLAN REPROCESS JOB visits_counter
  FOR (SELECT topic, partition, "offset" FROM system.late_rows WHERE job = 'visits_counter')
  WITH ('run_id' $run_id);
