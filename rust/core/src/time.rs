//! Instants as text, for invocation records.

/// Writes an instant (milliseconds since the Unix epoch) as `2019-11-14T00:13:49.717Z`.
///
/// Years outside 0 to 9999 are written with as many digits as they need.
pub(crate) fn iso_ms(ms: i64) -> String {
    let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Writes an instant without its milliseconds, as `2019-11-14T00:13:49Z`.
pub(crate) fn iso_seconds(ms: i64) -> String {
    let mut text = iso_ms(ms);
    text.truncate(text.len() - ".717Z".len());
    text.push('Z');
    text
}

/// The proleptic Gregorian date of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{iso_ms, iso_seconds};

    #[test]
    fn instants_read_as_in_the_developer_guide() {
        assert_eq!(iso_ms(1_573_690_429_717), "2019-11-14T00:13:49.717Z");
        assert_eq!(iso_seconds(1_573_690_429_717), "2019-11-14T00:13:49Z");
        assert_eq!(iso_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_ms(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso_ms(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso_ms(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
    }
}
