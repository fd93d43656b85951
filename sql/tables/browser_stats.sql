-- Visits per browser and window of five minutes.
CREATE EXTERNAL TABLE browser_stats (
  browser VARCHAR,
  "window" STRUCT<start TIMESTAMP, "end" TIMESTAMP>,
  "count" BIGINT,
  last_event_time_in_window TIMESTAMP
)
STORED AS KAFKA LOCATION 'browser_stats'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'topic.partitions' '1'
);
