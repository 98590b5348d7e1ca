//! Dates for templates: `strftime_now(format)`, like Python's `datetime.now().strftime(format)`.

use std::fmt::Write;

use super::{DateTime, zone};

const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl DateTime {
    /// The current time in the local time zone, from the variable `TZ` or else `/etc/localtime`.
    /// Systems with neither (Windows, Android) get UTC. `None` if there is no clock (in the browser
    /// the host must pass the time) or it shows a year before 1970.
    pub fn now() -> Option<Self> {
        if cfg!(all(target_arch = "wasm32", target_os = "unknown")) {
            // Reading the clock panics on this target.
            return None;
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
        let moment = i64::try_from(since.as_secs()).ok()?;
        Self::from_unix(moment.checked_add(zone::offset(moment).unwrap_or(0))?)
    }

    /// The UTC time `seconds` after the beginning of 1970. `None` if the year doesn't fit.
    pub fn from_unix(seconds: i64) -> Option<Self> {
        let days = seconds.div_euclid(86_400);
        let second = seconds.rem_euclid(86_400);
        // Converts days to a date in eras of 400 years that begin in March, so that the leap day is
        // the last day of a year (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let shifted = days.checked_add(719_468)?;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Some(Self {
            year: i32::try_from(year).ok()?,
            month: u8::try_from(month).ok()?,
            day: u8::try_from(day).ok()?,
            hour: u8::try_from(second / 3600).ok()?,
            minute: u8::try_from(second / 60 % 60).ok()?,
            second: u8::try_from(second % 60).ok()?,
        })
    }

    fn is_leap_year(&self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }

    /// The day of the year, from 1.
    fn day_of_year(&self) -> u32 {
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let month = usize::from(self.month).saturating_sub(1);
        let leap = u32::from(self.month > 2 && self.is_leap_year());
        before.get(month).copied().unwrap_or(0) + u32::from(self.day) + leap
    }

    /// The day of the week; 0 is Sunday.
    fn weekday(&self) -> usize {
        // Day 1 of year 1 was a Monday.
        let years = i64::from(self.year) - 1;
        let days =
            years * 365 + years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
        usize::try_from((days + i64::from(self.day_of_year())).rem_euclid(7)).unwrap_or(0)
    }

    /// Formats the time like C's `strftime`, with English names.
    ///
    /// # Errors
    /// The unknown directive.
    pub(super) fn format(&self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            // `%-d`: no padding.
            let padded = directive != Some('-');
            if !padded {
                directive = chars.next();
            }
            let Some(directive) = directive else { return Err("%".into()) };
            self.directive(directive, padded, &mut out)?;
        }
        Ok(out)
    }

    fn directive(&self, directive: char, padded: bool, out: &mut String) -> Result<(), String> {
        let month = usize::from(self.month).saturating_sub(1);
        let month = MONTHS.get(month).copied().unwrap_or_default();
        let weekday = WEEKDAYS.get(self.weekday()).copied().unwrap_or_default();
        let hour12 = (u32::from(self.hour) + 11) % 12 + 1;
        let week = |first_day: usize| {
            // Days before the year's first such weekday are in week 0.
            let since = (self.weekday() + 7 - first_day) % 7;
            (self.day_of_year() + 6).saturating_sub(u32::try_from(since).unwrap_or(0)) / 7
        };
        let number = |width: usize, value: u32, out: &mut String| {
            let width = if padded { width } else { 0 };
            // Writing to a string cannot fail.
            let _ = write!(out, "{value:0width$}");
        };
        match directive {
            'Y' => {
                let _ = write!(out, "{}", self.year);
            }
            'C' => number(2, u32::try_from(self.year.div_euclid(100)).unwrap_or(0), out),
            'y' => number(2, u32::try_from(self.year.rem_euclid(100)).unwrap_or(0), out),
            'm' => number(2, self.month.into(), out),
            'd' => number(2, self.day.into(), out),
            'e' if padded => {
                let _ = write!(out, "{:2}", self.day);
            }
            'e' => number(0, self.day.into(), out),
            'j' => number(3, self.day_of_year(), out),
            'H' => number(2, self.hour.into(), out),
            'I' => number(2, hour12, out),
            'M' => number(2, self.minute.into(), out),
            'S' => number(2, self.second.into(), out),
            'f' => number(6, 0, out),
            'U' => number(2, week(0), out),
            'W' => number(2, week(1), out),
            'w' => number(1, u32::try_from(self.weekday()).unwrap_or(0), out),
            'u' => number(1, u32::try_from((self.weekday() + 6) % 7 + 1).unwrap_or(1), out),
            'B' => out.push_str(month),
            'b' | 'h' => out.push_str(month.get(..3).unwrap_or(month)),
            'A' => out.push_str(weekday),
            'a' => out.push_str(weekday.get(..3).unwrap_or(weekday)),
            'p' => out.push_str(if self.hour < 12 { "AM" } else { "PM" }),
            // A time without a zone, like Python's `datetime.now()`.
            'Z' | 'z' => {}
            'F' => out.push_str(&self.format("%Y-%m-%d")?),
            'T' | 'X' => out.push_str(&self.format("%H:%M:%S")?),
            'R' => out.push_str(&self.format("%H:%M")?),
            'D' | 'x' => out.push_str(&self.format("%m/%d/%y")?),
            'c' => out.push_str(&self.format("%a %b %e %H:%M:%S %Y")?),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '%' => out.push('%'),
            unknown => return Err(format!("%{unknown}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str =
        "%Y %C %y %m %-m %d %-d %e %j %H %-H %I %M %S %U %W %w %u %B %b %A %a %p %F %T %R %D %c %%";

    #[test]
    fn formats_as_python_does() {
        // Written by Python's datetime.fromtimestamp(seconds, UTC).strftime(ALL).
        let cases = [
            (
                0,
                "1970 19 70 01 1 01 1  1 001 00 0 12 00 00 00 00 4 4 January Jan Thursday Thu AM 1970-01-01 00:00:00 00:00 01/01/70 Thu Jan  1 00:00:00 1970 %",
            ),
            (
                951_827_696,
                "2000 20 00 02 2 29 29 29 060 12 12 12 34 56 09 09 2 2 February Feb Tuesday Tue PM 2000-02-29 12:34:56 12:34 02/29/00 Tue Feb 29 12:34:56 2000 %",
            ),
            (
                1_798_761_599,
                "2026 20 26 12 12 31 31 31 365 23 23 11 59 59 52 52 4 4 December Dec Thursday Thu PM 2026-12-31 23:59:59 23:59 12/31/26 Thu Dec 31 23:59:59 2026 %",
            ),
            (
                1_709_424_000,
                "2024 20 24 03 3 03 3  3 063 00 0 12 00 00 09 09 0 7 March Mar Sunday Sun AM 2024-03-03 00:00:00 00:00 03/03/24 Sun Mar  3 00:00:00 2024 %",
            ),
        ];
        for (seconds, expected) in cases {
            let time = DateTime::from_unix(seconds).expect("in range");
            assert_eq!(time.format(ALL).expect("known directives"), expected, "{seconds}");
        }
    }

    #[test]
    fn an_unknown_directive_is_named() {
        let time = DateTime::from_unix(0).expect("in range");
        assert_eq!(time.format("%Q"), Err("%Q".to_string()));
        assert_eq!(time.format("%"), Err("%".to_string()));
    }
}
