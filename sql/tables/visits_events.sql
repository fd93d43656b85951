-- Visits accepted up to 20 minutes late.
CREATE EXTERNAL TABLE visits_events (
  event_id   VARCHAR,
  visit_id   BIGINT,
  event_time TIMESTAMP,
  WATERMARK FOR event_time AS event_time - INTERVAL '20 minutes'
)
STORED AS KAFKA LOCATION 'visits'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json'
);
