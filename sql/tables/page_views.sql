-- Pages as they are viewed, accepted up to a minute late.
CREATE EXTERNAL TABLE page_views (
  visit_id   VARCHAR,
  user_id    VARCHAR,
  event_time TIMESTAMP,
  page       VARCHAR,
  WATERMARK FOR event_time AS event_time - INTERVAL '1 minute'
)
STORED AS KAFKA LOCATION 'page_views'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'topic.partitions' '1'
);
