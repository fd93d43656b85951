-- Visits with their browser, accepted up to 20 minutes late. 'max' is Spark's watermark: the highest over all partitions.
CREATE EXTERNAL TABLE browser_visits (
  "userId"    BIGINT,
  page        VARCHAR,
  "eventTime" TIMESTAMP,
  browser     VARCHAR,
  WATERMARK FOR "eventTime" AS "eventTime" - INTERVAL '20 minutes'
)
STORED AS KAFKA LOCATION 'browser_visits'
OPTIONS (
  'kafka.bootstrap.servers' '${KAFKA_BOOTSTRAP}',
  'format' 'json',
  'topic.partitions' '1',
  'watermark.partitions' 'max'
);
