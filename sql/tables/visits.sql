-- Visits as they arrive: one JSON object per record.
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
  'topic.partitions' '1'
);
