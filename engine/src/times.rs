//! Moments as people and scripts read and write them: RFC 3339.

use farside_codec::ids::Hlc;

/// Days since 1970 of a civil date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// An HLC as RFC 3339, in UTC with milliseconds.
pub fn show_time(time: Hlc) -> String {
    let ms = time.ms() as i64;
    let (days, within) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute) = (within / 3_600_000, within / 60_000 % 60);
    let (second, ms) = (within / 1000 % 60, within % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// A length of time in the unit that suits it.
pub(crate) fn show_seconds(seconds: f64) -> String {
    match seconds {
        long if long >= 2.0 * 86_400.0 => format!("{:.1} days", long / 86_400.0),
        hours if hours >= 7200.0 => format!("{:.1} h", hours / 3600.0),
        minutes if minutes >= 120.0 => format!("{:.0} min", minutes / 60.0),
        seconds => format!("{seconds:.0} s"),
    }
}

/// Reads RFC 3339. The answer covers everything within the last digit given. The error says what is wrong.
pub fn parse_time(text: &str) -> Result<Hlc, String> {
    let (fields, offset_minutes) =
        parse_fields(text).ok_or_else(|| format!("{text} is no RFC 3339 time, like 2026-01-31T12:00:00Z"))?;
    let Fields { year, month, day, hour, minute, second, ms } = fields;
    let days = days_from_civil(year, month, day);
    let in_calendar = (1..=12).contains(&month) && civil_from_days(days) == (year, month, day);
    if !in_calendar || !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..61).contains(&second) {
        return Err(format!("{text} is in no calendar"));
    }
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    let ms = u64::try_from(seconds * 1000 + ms).map_err(|_| format!("{text} is before 1970, when no log began"))?;
    // Everything of that millisecond.
    Ok(Hlc((ms << 16) | 0xffff))
}

struct Fields {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    ms: i64,
}

/// A number of so many digits and nothing else.
fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && is_digits(text)).then(|| text.parse().ok())?
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The numbers of a time, and minutes that its zone is ahead of UTC.
fn parse_fields(text: &str) -> Option<(Fields, i64)> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut date = date.split('-');
    let (year, month, day) = (digits(date.next()?, 4)?, digits(date.next()?, 2)?, digits(date.next()?, 2)?);
    let (clock, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-'])?);
    let (clock, ms) = match clock.split_once('.') {
        None => (clock, 999),
        Some((_, fraction)) if fraction.is_empty() || !is_digits(fraction) => return None,
        // Digits below the millisecond are let go.
        Some((clock, fraction)) => (clock, digits(format!("{fraction:9<3}").get(..3)?, 3)?),
    };
    let mut clock = clock.split(':');
    let (hour, minute, second) = (digits(clock.next()?, 2)?, digits(clock.next()?, 2)?, digits(clock.next()?, 2)?);
    if date.next().is_some() || clock.next().is_some() {
        return None;
    }
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = hours * 60 + minutes;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    Some((Fields { year, month, day, hour, minute, second, ms }, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for ms in [0, 951_782_399_999, 951_782_400_000, 1_798_675_199_123, 4_102_444_800_000] {
            let text = show_time(Hlc::from_ms(ms));
            assert_eq!(parse_time(&text).map(Hlc::ms), Ok(ms), "{text}");
        }
        assert_eq!(show_time(Hlc::from_ms(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(parse_time("2000-02-29T02:00:00.0+02:00").map(Hlc::ms), Ok(951_782_400_099));
        assert_eq!(parse_time("2000-02-29T02:00:00.000+02:00").map(Hlc::ms), Ok(951_782_400_000));
        assert_eq!(parse_time("2000-02-29T00:00:00Z").map(Hlc::ms), Ok(951_782_400_999));
        let far = "9999999999999999999-01-01T00:00:00Z";
        let late = "2000-01-01T00:00:00+9999999999999999:00";
        for bad in [
            "",
            "yesterday",
            "2000-01-01",
            "2000-01-01T00:00:00",
            "2000-01-01T00:00Z",
            "+000-01-01T00:00:00Z",
            "2000-01-01T00:00:00.12xZ",
            "2000-01-01T00:00:00.1234xZ",
            "2000-01-01T00:00:00.Z",
            "2000-01-01T00:00:00Z05:00",
            "2000-01-01T00:00:00+24:00",
            "2000-01-01T00:00:00+00:60",
            far,
            late,
        ] {
            assert!(parse_time(bad).is_err_and(|error| error.contains("RFC 3339")), "{bad}");
        }
        for bad in ["2000-13-01T00:00:00Z", "2001-02-29T00:00:00Z", "2000-04-31T00:00:00Z", "2000-01-01T24:00:00Z"] {
            assert!(parse_time(bad).is_err_and(|error| error.contains("in no calendar")), "{bad}");
        }
        for bad in ["1969-12-31T23:59:59Z", "1970-01-01T00:00:00+01:00"] {
            assert!(parse_time(bad).is_err_and(|error| error.contains("before 1970")), "{bad}");
        }
    }
}
