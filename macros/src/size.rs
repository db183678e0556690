//! Sizes with their unit, as people write them: `512MB`.

/// Why a text is no size.
#[derive(Debug, PartialEq)]
pub(crate) enum Problem {
    /// It is zero.
    Nothing,
    /// There is no whole number, no unit that is known, or it is too large.
    NoSize,
}

/// Units of a thousand, as on a disk, and of 1024, as in memory.
const UNITS: &[(&str, u64)] = &[
    ("KB", 1000),
    ("MB", 1000_u64.pow(2)),
    ("GB", 1000_u64.pow(3)),
    ("KIB", 1024),
    ("MIB", 1024_u64.pow(2)),
    ("GIB", 1024_u64.pow(3)),
];

/// The bytes of a text such as `512MB`.
pub(crate) fn parse(text: &str) -> Result<u64, Problem> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or(Problem::NoSize)?;
    let (number, unit) = (&text[..unit], text[unit..].trim_start().to_ascii_uppercase());
    let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or(Problem::NoSize)?.1;
    let number: u64 = number.parse().map_err(|_| Problem::NoSize)?;
    match number.checked_mul(factor) {
        None => Err(Problem::NoSize),
        Some(0) => Err(Problem::Nothing),
        Some(bytes) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("512MB", Ok(512_000_000)),
            ("512 MiB", Ok(512 << 20)),
            ("2GB", Ok(2_000_000_000)),
            ("64kB", Ok(64_000)),
            ("0MB", Err(Problem::Nothing)),
            ("512", Err(Problem::NoSize)),
            ("MB", Err(Problem::NoSize)),
            ("1.5GB", Err(Problem::NoSize)),
            ("-1MB", Err(Problem::NoSize)),
            ("99999999999999GB", Err(Problem::NoSize)),
        ] {
            assert_eq!(parse(text), bytes, "{text}");
        }
    }
}
