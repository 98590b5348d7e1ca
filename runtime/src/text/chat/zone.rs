//! The system's local time zone, from the variable `TZ` or else `/etc/localtime`.
//!
//! The standard library has no time zones, and calling the C library's would need `unsafe`. So this
//! reads the files itself: TZif (RFC 9636) and, for times after the last transition listed, POSIX
//! rules (`CET-1CEST,M3.5.0,M10.5.0/3`). Targets without such files (Windows, Android, the browser)
//! have no known zone; callers pass the time instead (`ChatOptions::now`).

use std::path::{Path, PathBuf};

use super::DateTime;

const DAY: i64 = 86_400;
/// Largest zone file accepted, in bytes. They have a few kilobytes.
const MAX_BYTES: u64 = 1 << 20;
const FOLDERS: [&str; 4] =
    ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];

/// Seconds that local time is ahead of UTC at `moment` (seconds since 1970). `None` if unknown.
pub(super) fn offset(moment: i64) -> Option<i64> {
    if !cfg!(unix) {
        return None;
    }
    match std::env::var_os("TZ") {
        None => of_file(Path::new("/etc/localtime"), moment),
        Some(zone) => {
            let zone = zone.to_str()?;
            of_variable(zone.strip_prefix(':').unwrap_or(zone), moment)
        }
    }
}

fn of_variable(zone: &str, moment: i64) -> Option<i64> {
    if zone.is_empty() {
        return Some(0);
    }
    if zone.starts_with('/') {
        return of_file(Path::new(zone), moment);
    }
    let folders = std::env::var_os("TZDIR").map(PathBuf::from).into_iter();
    let mut folders = folders.chain(FOLDERS.map(PathBuf::from));
    folders.find_map(|folder| of_file(&folder.join(zone), moment)).or_else(|| posix(zone, moment))
}

fn of_file(path: &Path, moment: i64) -> Option<i64> {
    let contents = crate::files::small_file::read(path, MAX_BYTES).ok()?;
    of_tzif(&contents, moment)
}

/// A reader that takes bytes from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn count(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    }
}

struct Header {
    version: u8,
    /// Counts of UT indicators, standard indicators, leap seconds, transitions, types, characters.
    counts: [usize; 6],
}

impl Header {
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        if bytes.take(4)? != b"TZif" {
            return None;
        }
        let version = *bytes.take(1)?.first()?;
        bytes.take(15)?;
        let mut counts = [0; 6];
        for count in &mut counts {
            *count = bytes.count()?;
        }
        Some(Self { version, counts })
    }

    /// Sizes of the block that follows, with times of `width` bytes: up to the end of what is used,
    /// and in total.
    fn rest(&self, width: usize) -> Option<usize> {
        let [ut, standard, leap, ..] = self.counts;
        leap.checked_mul(width + 4)?.checked_add(ut)?.checked_add(standard)
    }
}

fn of_tzif(contents: &[u8], moment: i64) -> Option<i64> {
    let mut bytes = Bytes(contents);
    let mut header = Header::read(&mut bytes)?;
    let mut width = 4;
    if header.version >= b'2' {
        let [_, _, _, transitions, types, chars] = header.counts;
        bytes.take(transitions.checked_mul(5)?)?;
        bytes.take(types.checked_mul(6)?)?;
        bytes.take(chars)?;
        bytes.take(header.rest(4)?)?;
        header = Header::read(&mut bytes)?;
        width = 8;
    }
    let [_, _, _, transitions, types, chars] = header.counts;
    let times = bytes.take(transitions.checked_mul(width)?)?;
    let kinds = bytes.take(transitions)?;
    let types = bytes.take(types.checked_mul(6)?)?;
    bytes.take(chars)?;
    bytes.take(header.rest(width)?)?;
    let time = |bytes: &[u8]| {
        // Sign-extends from `width` bytes.
        bytes.iter().fold(0i64, |time, byte| time << 8 | i64::from(*byte)) << (64 - 8 * width)
            >> (64 - 8 * width)
    };
    let mut before = 0;
    for at in times.chunks_exact(width) {
        if time(at) > moment {
            break;
        }
        before += 1;
    }
    let offset = |kind: usize| {
        let bytes = types.get(kind.checked_mul(6)?..)?.get(..4)?;
        Some(i64::from(i32::from_be_bytes(bytes.try_into().ok()?)))
    };
    if before == transitions && width == 8 {
        let footer = bytes.0.strip_prefix(b"\n").and_then(|footer| footer.strip_suffix(b"\n"));
        let rule = footer.and_then(|footer| std::str::from_utf8(footer).ok());
        if let Some(rule) = rule.filter(|rule| !rule.is_empty()) {
            return posix(rule, moment);
        }
    }
    match before.checked_sub(1) {
        Some(last) => offset(usize::from(*kinds.get(last)?)),
        None => offset(0),
    }
}

/// The day of a transition.
enum Day {
    /// Day of the year from 1, never counting 29 February.
    Julian(i64),
    /// Day of the year from 0.
    Plain(i64),
    /// Month, week (5 is the last) and weekday (0 is Sunday).
    Weekday(i64, i64, i64),
}

impl Day {
    /// Days from 1970 to this day of `year`.
    fn in_year(&self, year: i64) -> Option<i64> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let first = days(year, 1, 1)?;
        Some(match self {
            Self::Plain(day) => first + day,
            Self::Julian(day) => first + day - 1 + i64::from(leap && *day >= 60),
            Self::Weekday(month, week, weekday) => {
                let first = days(year, *month, 1)?;
                // 1 January 1970 was a Thursday.
                let to_weekday = (weekday - (first + 4)).rem_euclid(7);
                let next =
                    if *month == 12 { days(year + 1, 1, 1)? } else { days(year, month + 1, 1)? };
                let day = first + to_weekday + 7 * (week - 1);
                if day >= next { day - 7 } else { day }
            }
        })
    }
}

/// Days from 1970 to a date, in eras of 400 years that begin in March (like
/// [`DateTime::from_unix`]).
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era.checked_mul(146_097)?
        .checked_add(of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// A parser of POSIX rules, reading from the front.
struct Rule<'a>(&'a str);

impl<'a> Rule<'a> {
    fn skip(&mut self, c: char) -> bool {
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn name(&mut self) -> Option<()> {
        let length = if self.skip('<') {
            self.0.find('>')? + 1
        } else {
            let end = self.0.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.0.len());
            Some(end).filter(|end| *end >= 3)?
        };
        self.0 = self.0.get(length..)?;
        Some(())
    }

    fn number(&mut self) -> Option<i64> {
        let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at_checked(end.min(4))?;
        self.0 = rest;
        digits.parse().ok()
    }

    /// Parses `[+-]hh[:mm[:ss]]`, in seconds.
    fn time(&mut self) -> Option<i64> {
        let negative = self.skip('-');
        if !negative {
            self.skip('+');
        }
        let mut seconds = self.number()? * 3600;
        for unit in [60, 1] {
            if self.skip(':') {
                seconds += self.number()? * unit;
            }
        }
        Some(if negative { -seconds } else { seconds })
    }

    /// Parses a day and the time of the transition, which defaults to two o'clock.
    fn change(&mut self) -> Option<(Day, i64)> {
        let day = if self.skip('M') {
            let month = self.number().filter(|month| (1..=12).contains(month))?;
            let week =
                self.skip('.').then(|| self.number())?.filter(|week| (1..=5).contains(week))?;
            let weekday = self.skip('.').then(|| self.number())?.filter(|day| *day <= 6)?;
            Day::Weekday(month, week, weekday)
        } else if self.skip('J') {
            Day::Julian(self.number().filter(|day| (1..=365).contains(day))?)
        } else {
            Day::Plain(self.number().filter(|day| *day <= 365)?)
        };
        let time = if self.skip('/') { self.time()? } else { 2 * 3600 };
        Some((day, time))
    }
}

/// The offset by a rule such as `CET-1CEST,M3.5.0,M10.5.0/3`. Signs in rules are positive to the
/// west.
fn posix(rule: &str, moment: i64) -> Option<i64> {
    let mut rule = Rule(rule);
    rule.name()?;
    let standard = -rule.time()?;
    if rule.0.is_empty() {
        return Some(standard);
    }
    rule.name()?;
    let summer = match rule.0.chars().next() {
        None | Some(',') => standard + 3600,
        Some(_) => -rule.time()?,
    };
    let (begin, end) = if rule.skip(',') {
        let begin = rule.change()?;
        (begin, rule.skip(',').then(|| rule.change())??)
    } else {
        // The default rule of the C libraries.
        ((Day::Weekday(3, 2, 0), 2 * 3600), (Day::Weekday(11, 1, 0), 2 * 3600))
    };
    if !rule.0.is_empty() {
        return None;
    }
    let year = i64::from(DateTime::from_unix(moment.checked_add(standard)?)?.year);
    let at = |(day, time): &(Day, i64), offset: i64| {
        Some(day.in_year(year)?.checked_mul(DAY)? + time - offset)
    };
    let (begin, end) = (at(&begin, standard)?, at(&end, summer)?);
    let is_summer = match begin < end {
        true => (begin..end).contains(&moment),
        false => !(end..begin).contains(&moment),
    };
    Some(if is_summer { summer } else { standard })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected offsets in seconds, from Python's `zoneinfo`.
    const BERLIN: [(i64, i64); 9] = [
        (-3_000_000_000, 3208),
        (-1_693_706_400, 7200),
        (0, 3600),
        (1_711_846_799, 3600),
        (1_711_846_800, 7200),
        (1_729_990_799, 7200),
        (1_729_990_800, 3600),
        (4_079_000_000, 7200),
        (4_087_000_000, 7200),
    ];

    #[test]
    fn zone_files_are_read_as_by_python() {
        let berlin = include_bytes!("../../../tests/fixtures/text/Europe_Berlin.tzif");
        for (moment, offset) in BERLIN {
            assert_eq!(of_tzif(berlin, moment), Some(offset), "{moment}");
        }
        // Its daylight saving time is half an hour.
        let lord_howe = include_bytes!("../../../tests/fixtures/text/Australia_Lord_Howe.tzif");
        for (moment, offset) in LORD_HOWE {
            assert_eq!(of_tzif(lord_howe, moment), Some(offset), "{moment}");
        }
        for cut in 0..berlin.len() {
            let _ = of_tzif(&berlin[..cut], 1_711_846_800);
        }
        assert_eq!(of_tzif(b"TZif", 0), None);
    }

    const LORD_HOWE: [(i64, i64); 4] =
        [(0, 36_000), (1_704_067_200, 39_600), (1_719_792_000, 37_800), (4_102_444_800, 39_600)];

    #[test]
    fn rules_are_those_of_posix() {
        for (rule, moment, offset) in [
            ("UTC0", 0, Some(0)),
            ("<+0330>-3:30", 0, Some(12_600)),
            ("EST5EDT,M3.2.0,M11.1.0", 1_710_053_999, Some(-18_000)),
            ("EST5EDT,M3.2.0,M11.1.0", 1_710_054_000, Some(-14_400)),
            ("EST5EDT", 1_730_613_600, Some(-18_000)),
            // Ireland treats winter time as the exception.
            ("IST-1GMT0,M10.5.0,M3.5.0/1", 1_704_067_200, Some(0)),
            ("IST-1GMT0,M10.5.0,M3.5.0/1", 1_719_792_000, Some(3600)),
            // South of the equator, daylight saving time spans the turn of the year.
            ("NZST-12NZDT,M9.5.0,M4.1.0/3", 1_704_067_200, Some(46_800)),
            ("NZST-12NZDT,M9.5.0,M4.1.0/3", 1_719_792_000, Some(43_200)),
            ("XXX3YYY,J60,J300", 1_709_251_200, Some(-10_800)),
            ("XXX3YYY,59/0,300", 1_709_182_800, Some(-7200)),
            ("EST", 0, None),
            ("EST5EDT,M13.1.0,M11.1.0", 0, None),
            ("EST5EDT,M3.2.0,M11.1.0x", 0, None),
            ("", 0, None),
            ("5", 0, None),
        ] {
            assert_eq!(posix(rule, moment), offset, "{rule} at {moment}");
        }
        assert_eq!(of_variable("", 0), Some(0));
    }
}
