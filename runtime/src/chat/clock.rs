//! The time that templates may ask for, so that tests can stop it.

use jiff::Zoned;
use jiff::fmt::strtime::BrokenDownTime;

/// Where `strftime_now` takes the time from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's local time.
    #[default]
    Local,
    /// Always this time.
    Fixed(Box<Zoned>),
}

impl Clock {
    /// A clock that stands at an RFC 9557 time such as `2024-07-26T09:05:03+00:00[UTC]`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn fixed(time: &str) -> Result<Clock, String> {
        time.parse().map(|zoned| Clock::Fixed(Box::new(zoned))).map_err(|e: jiff::Error| e.to_string())
    }

    /// The time in the form that C's `strftime` gives it.
    pub(super) fn format(&self, format: &str) -> Result<String, String> {
        let now = match self {
            Clock::Local => Zoned::now(),
            Clock::Fixed(time) => Zoned::clone(time),
        };
        let mut text = String::new();
        BrokenDownTime::from(&now).format(format, &mut text).map_err(|e| e.to_string())?;
        Ok(text)
    }
}
