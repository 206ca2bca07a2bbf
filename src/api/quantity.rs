//! Kubernetes quantities (`500m`, `2Gi`, `1e3`) to numbers, exactly.

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a quantity; write a number with an optional suffix such as m, k, M, G, Ki, Mi, Gi")]
pub struct QuantityError(pub String);

/// Returns the quantity in thousandths, rounded up, as Kubernetes does (`1` is 1000, `500m` is 500).
///
/// # Errors
/// The text is not a quantity, or does not fit.
pub fn parse_milli(text: &str) -> Result<i128, QuantityError> {
    let error = || QuantityError(text.to_owned());
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = multiplier(suffix).ok_or_else(error)?;
    let negative = number.starts_with('-');
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    if digits.contains(['+', '-']) {
        return Err(error());
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return Err(error());
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
    let value: i128 = format!("{whole}{fraction}").parse().map_err(|_| error())?;
    let top = value.checked_mul(numerator).and_then(|v| v.checked_mul(1000)).ok_or_else(error)?;
    let bottom = scale.checked_mul(denominator).ok_or_else(error)?;
    let rounded_up = top.div_euclid(bottom) + i128::from(top.rem_euclid(bottom) != 0);
    Ok(if negative { -rounded_up } else { rounded_up })
}

/// Returns the quantity as a whole number, rounded up: bytes of memory, count of devices.
///
/// # Errors
/// The text is not a quantity, is negative, or does not fit 64 bits.
pub fn parse_whole(text: &str) -> Result<u64, QuantityError> {
    let milli = parse_milli(text)?;
    let whole = milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0);
    u64::try_from(whole).map_err(|_| QuantityError(text.to_owned()))
}

fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let decimal = |power: u32| Some((10_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let magnitude = 10_i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, magnitude) } else { (magnitude, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        let cases = [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.5Gi", 1_610_612_736_000),
            ("2Gi", 2_147_483_648_000),
            ("1e3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1n", 1),
            ("-1", -1000),
            ("12E2", 1_200_000),
        ];
        for (text, milli) in cases {
            assert_eq!(parse_milli(text), Ok(milli), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", "Gi", "1.2.3", "1 Gi", "abc", "1gi", "--1", "1e", "1e99"] {
            assert!(parse_milli(text).is_err(), "{text}");
        }
        assert!(parse_whole("-1").is_err());
    }
}
