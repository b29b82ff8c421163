//! Sizes, durations and times as people type and read them.

use farside_codec::ids::Hlc;

/// Reads `4MiB`, `1GB`, `512`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1u64 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let (number, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    let number: f64 = number.trim().parse().map_err(|_| format!("{text} is no size: 4MiB, 64GiB, 1TB"))?;
    let bytes = number * unit as f64;
    if !(1.0..1e18).contains(&bytes) {
        return Err(format!("{text} is no possible size"));
    }
    Ok(bytes as u64)
}

/// Reads `30s`, `12h`, `7d`.
pub(super) fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no duration: 30s, 15m, 12h, 7d");
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let (number, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).ok_or_else(wrong)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// `1.5 GiB`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

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
pub(crate) fn show_time(time: Hlc) -> String {
    let ms = time.ms() as i64;
    let (days, within) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute) = (within / 3_600_000, within / 60_000 % 60);
    let (second, ms) = (within / 1000 % 60, within % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Reads RFC 3339. The answer covers everything within the last digit given.
pub(super) fn parse_time(text: &str) -> Option<Hlc> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = rest.find(['Z', 'z', '+']).or_else(|| rest.rfind('-'))?;
    let (clock, zone) = rest.split_at(zone);
    let mut clock = clock.splitn(3, ':');
    let hour: i64 = clock.next()?.parse().ok()?;
    let minute: i64 = clock.next()?.parse().ok()?;
    let (second, fraction) = clock
        .next()?
        .split_once('.')
        .map_or_else(|| None, |(s, f)| Some((s, Some(f))))
        .unwrap_or((rest.get(6..8)?, None));
    let second: i64 = second.parse().ok()?;
    let ms = match fraction {
        None => 999,
        Some(digits) => format!("{digits:9<3}").get(..3)?.parse::<i64>().ok()?,
    };
    let in_day = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..61).contains(&second);
    let in_calendar = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_day || !in_calendar {
        return None;
    }
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = i64::from(hours.parse::<u8>().ok()?) * 60 + i64::from(minutes.parse::<u8>().ok()?);
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    let ms = u64::try_from(seconds * 1000 + ms).ok()?;
    // Everything of that millisecond.
    Some(Hlc((ms << 16) | 0xffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for ms in [0, 951_782_399_999, 951_782_400_000, 1_798_675_199_123, 4_102_444_800_000] {
            let text = show_time(Hlc::from_ms(ms));
            assert_eq!(parse_time(&text).map(Hlc::ms), Some(ms), "{text}");
        }
        assert_eq!(show_time(Hlc::from_ms(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(parse_time("2000-02-29T02:00:00.0+02:00").map(Hlc::ms), Some(951_782_400_099));
        assert_eq!(parse_time("2000-02-29T02:00:00.000+02:00").map(Hlc::ms), Some(951_782_400_000));
        assert_eq!(parse_time("2000-02-29T00:00:00Z").map(Hlc::ms), Some(951_782_400_999));
        let far = "9999999999999999999-01-01T00:00:00Z";
        let late = "2000-01-01T00:00:00+9999999999999999:00";
        for bad in ["", "yesterday", "2000-13-01T00:00:00Z", "2000-01-01", "2000-01-01T00:00:00", far, late] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("4MiB"), Ok(4 << 20));
        assert_eq!(parse_bytes("1.5GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("77"), Ok(77));
        assert!(parse_bytes("much").is_err() && parse_bytes("0").is_err() && parse_bytes("-1GiB").is_err());
        assert_eq!(parse_seconds("7d"), Ok(604_800));
        assert!(parse_seconds("7").is_err());
    }
}
