-- Keeps the archive up to date: every record once, with its coordinates, from where the archive ends. A record whose time cannot be read
-- is kept without one.
CREATE JOB archive_visits
  WITH ('trigger' '10 seconds', 'scan.startup' 'archive end')
AS INSERT INTO visits_raw (value, partition, "offset", event_time)
   SELECT value, kafka_partition, kafka_offset, TRY_CAST(json_get_str(value, 'event_time') AS TIMESTAMP)
   FROM visits_records;
