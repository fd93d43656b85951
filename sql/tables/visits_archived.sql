-- Visits as they arrive, and before them their past: what the topic no longer has comes from the archive of raw records.
CREATE EXTERNAL TABLE visits (
  event_id        VARCHAR,
  user_id         BIGINT,
  event_time      TIMESTAMP,
  page            VARCHAR,
  kafka_partition INT    METADATA FROM 'partition',
  kafka_offset    BIGINT METADATA FROM 'offset',
  WATERMARK FOR event_time AS event_time - INTERVAL '15 minutes'
)
STORED AS KAFKA LOCATION 'visits'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'archive' 'visits_raw',
  'topic.partitions' '1'
);
