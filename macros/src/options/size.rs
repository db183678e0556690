//! Sizes with their unit, as people write them: `512MB`.

const NO_SIZE: &str = "is not a size: write a number and a unit, such as `512MB`, `512MiB` or `2GB`";
const NOTHING: &str = "must be above zero";

/// Units of a thousand, as on a disk, and of 1024, as in memory.
const UNITS: &[(&str, u64)] = &[
    ("KB", 1000),
    ("MB", 1000_u64.pow(2)),
    ("GB", 1000_u64.pow(3)),
    ("KIB", 1024),
    ("MIB", 1024_u64.pow(2)),
    ("GIB", 1024_u64.pow(3)),
];

/// The bytes of a text such as `512MB`, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<u64, &'static str> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or(NO_SIZE)?;
    let (number, unit) = (&text[..unit], text[unit..].trim_start().to_ascii_uppercase());
    let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or(NO_SIZE)?.1;
    let number: u64 = number.parse().map_err(|_| NO_SIZE)?;
    match number.checked_mul(factor) {
        None => Err(NO_SIZE),
        Some(0) => Err(NOTHING),
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
            ("0MB", Err(NOTHING)),
            ("512", Err(NO_SIZE)),
            ("MB", Err(NO_SIZE)),
            ("1.5GB", Err(NO_SIZE)),
            ("-1MB", Err(NO_SIZE)),
            ("99999999999999GB", Err(NO_SIZE)),
        ] {
            assert_eq!(parse(text), bytes, "{text}");
        }
    }
}
