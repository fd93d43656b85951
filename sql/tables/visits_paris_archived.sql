-- Visits whose times are written without an offset, in Paris, and their past: the archive's own times are not compared, as they were read as UTC.
CREATE EXTERNAL TABLE visits_paris (
  event_id        VARCHAR,
  visit_id        BIGINT,
  event_time      TIMESTAMP,
  page            VARCHAR,
  kafka_partition INT    METADATA FROM 'partition',
  kafka_offset    BIGINT METADATA FROM 'offset'
)
STORED AS KAFKA LOCATION 'visits'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'timezone' 'Europe/Paris',
  'archive' 'visits_raw',
  'archive.event_time' 'none',
  'topic.partitions' '1'
);
