-- Visits whose times are written without an offset, in Paris: decoded live, and from the archive.
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
  'topic.partitions' '1'
);

CREATE VIEW visits_paris_archive AS
SELECT json_get_str(value, 'event_id') AS event_id,
       json_get_int(value, 'visit_id') AS visit_id,
       arrow_cast(json_get_str(value, 'event_time'), 'Timestamp(Microsecond, Some("Europe/Paris"))') AS event_time,
       json_get_str(value, 'page') AS page,
       partition, "offset"
FROM visits_raw;
