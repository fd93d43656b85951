-- The archive of raw records with their coordinates, partitioned by the hour of the event.
CREATE EXTERNAL TABLE visits_raw (
  value      VARCHAR,
  partition  INT,
  "offset"   BIGINT,
  event_time TIMESTAMP,
  year  INT GENERATED ALWAYS AS (CAST(date_part('year',  event_time) AS INT)),
  month INT GENERATED ALWAYS AS (CAST(date_part('month', event_time) AS INT)),
  day   INT GENERATED ALWAYS AS (CAST(date_part('day',   event_time) AS INT)),
  hour  INT GENERATED ALWAYS AS (CAST(date_part('hour',  event_time) AS INT))
)
STORED AS DELTA PARTITIONED BY (year, month, day, hour) LOCATION './data/visits_raw';
