use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A moment on the wall clock: nanoseconds since the epoch, UTC. JSON: RFC 3339 with nine digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(moment) => format!("{moment:.9}"),
            Err(_) => "1970-01-01T00:00:00.000000000Z".to_owned(), // out of jiff's range: no clock shows that
        }
    }

    /// `14:02:11` in the zone given.
    pub fn clock(self, zone: &jiff::tz::TimeZone) -> String {
        jiff::Timestamp::from_nanosecond(i128::from(self.0)).map_or_else(
            |_| "??:??:??".to_owned(),
            |moment| moment.to_zoned_datetime(zone.clone()).strftime("%H:%M:%S").to_string(),
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let moment: jiff::Timestamp = String::deserialize(from)?.parse().map_err(D::Error::custom)?;
        i64::try_from(moment.as_nanosecond()).map(Self).map_err(D::Error::custom)
    }
}

/// A time span as a person reads it: `812 µs`, `412 ms`, `1.8 s`, `4 min`, `3 h`.
pub fn span(ns: u64) -> String {
    match ns {
        ns if ns < 1_000_000 => format!("{} µs", ns / 1000),
        ns if ns < 1_000_000_000 => format!("{} ms", ns / 1_000_000),
        ns if ns < 120_000_000_000 => format!("{:.1} s", ns as f64 / 1e9),
        ns if ns < 7_200_000_000_000 => format!("{:.0} min", ns as f64 / 60e9),
        ns => format!("{:.0} h", ns as f64 / 3600e9),
    }
}
