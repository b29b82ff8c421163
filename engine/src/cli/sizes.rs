//! Sizes, durations and times as people type and read them.

use crate::client::check_key_cache;
use farside_codec::peer::DayWindow;

pub use crate::times::{parse_time, show_time};

/// Reads `4MiB`, `1GB`, `512`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
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

/// Reads what [`parse_bytes`] reads, and 0.
pub fn parse_bytes_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_bytes(text) }
}

/// Reads what [`parse_bytes`] reads, or `none`, which is 0.
pub fn parse_bound(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(0) } else { parse_bytes(text) }
}

/// Reads a rate in bytes a second: `1Gbit`, `200Mbit`, and what [`parse_bytes_or_none`] reads.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let units = [("kbit", 1_000.0), ("Mbit", 1_000_000.0), ("Gbit", 1_000_000_000.0)];
    let Some((number, unit)) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))) else {
        return parse_bytes_or_none(text).map_err(|_| format!("{text} is no rate a second: 1Gbit, 200Mbit, 20MiB, 0"));
    };
    let bits = number.trim().parse::<f64>().map_err(|_| format!("{text} is no rate a second: 1Gbit, 200Mbit"))?;
    match bits * unit / 8.0 {
        bytes if (1.0..1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err(format!("{text} is no possible rate")),
    }
}

/// Reads `22:00-06:00`.
pub fn parse_window(text: &str) -> Result<DayWindow, String> {
    let wrong = || format!("{text} is no part of a day in UTC: 22:00-06:00");
    let minute = |text: &str| {
        let (hours, minutes) = text.trim().split_once(':')?;
        let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
    };
    let (from, until) = text.split_once('-').ok_or_else(wrong)?;
    let window = DayWindow { from: minute(from).ok_or_else(wrong)?, until: minute(until).ok_or_else(wrong)? };
    match window.is_sound() {
        true => Ok(window),
        false => Err(format!("{text} begins when it ends: leave the window out for a limit that holds all day")),
    }
}

/// `22:00-06:00`.
pub fn show_window(window: &DayWindow) -> String {
    let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    format!("{}-{}", time(window.from), time(window.until))
}

/// Reads `30s`, `12h`, `7d`.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no duration: 30s, 15m, 12h, 7d");
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let (number, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).ok_or_else(wrong)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// The same, or `none`, which is 0.
pub fn parse_seconds_or_none(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        text => match parse_seconds(text)? {
            0 => Err("0 is no bound: say none".into()),
            seconds => Ok(seconds),
        },
    }
}

/// Reads how long a key may be kept.
pub fn parse_key_cache(text: &str) -> Result<u64, String> {
    let seconds = parse_seconds(text)?;
    check_key_cache(seconds).map(|()| seconds)
}

/// `1.5 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("4MiB"), Ok(4 << 20));
        assert_eq!(parse_bytes("1.5GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("77"), Ok(77));
        assert!(parse_bytes("much").is_err() && parse_bytes("0").is_err() && parse_bytes("-1GiB").is_err());
        assert_eq!(parse_seconds("7d"), Ok(604_800));
        assert!(parse_seconds("7").is_err());
    }

    #[test]
    fn rates_and_windows_are_read() {
        assert_eq!(
            [parse_rate("1Gbit"), parse_rate("200kbit"), parse_rate("4MiB")],
            [Ok(125_000_000), Ok(25_000), Ok(4 << 20)]
        );
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(["fast", "-1Mbit", "0.001kbit", "1gbit", "Gbit", ""].iter().all(|text| parse_rate(text).is_err()));
        let window = parse_window("22:00-06:05").expect("a window");
        assert_eq!((window.from, window.until), (1320, 365));
        assert_eq!(show_window(&window), "22:00-06:05");
        let wrong = ["", "22-6", "24:00-06:00", "22:60-06:00", "22:00", "22:00-22:00", "a:b-c:d"];
        assert!(wrong.iter().all(|text| parse_window(text).is_err()));
    }
}
