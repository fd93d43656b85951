-- Copies what is new in the topic to the archive. The archive itself says where to go on: run it
-- again at any time. A record whose time cannot be read is kept without one.
INSERT INTO visits_raw (value, partition, "offset", event_time)
SELECT value, kafka_partition, kafka_offset, TRY_CAST(json_get_str(value, 'event_time') AS TIMESTAMP)
FROM visits_records
WHERE offsets_from(kafka_partition, kafka_offset, (SELECT next_offsets(partition, "offset") FROM visits_raw));
