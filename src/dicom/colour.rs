//! Colours of segments: DICOM states them as CIELab of a standard display.
//!
//! sRGB (IEC 61966-2-1) to CIEXYZ under D65, Bradford-adapted to D50, to CIELab, scaled to 16 bits as
//! PS3.3 C.10.7.1.1 says. 8-bit colours come back exactly.

/// CIE constants, and the D50 white of the profile connection space.
const EPSILON: f64 = 216.0 / 24389.0;
const KAPPA: f64 = 24389.0 / 27.0;
const WHITE: [f64; 3] = [0.964_22, 1.0, 0.825_21];
/// Linear sRGB to XYZ under D50 (Lindbloom, `RGB/XYZ matrices`, sRGB with Bradford adaptation).
const TO_XYZ: [[f64; 3]; 3] = [
    [0.436_074_7, 0.385_064_9, 0.143_080_4],
    [0.222_504_5, 0.716_878_6, 0.060_616_9],
    [0.013_932_2, 0.097_104_5, 0.714_173_3],
];
/// The inverse of [`TO_XYZ`].
const FROM_XYZ: [[f64; 3]; 3] = [
    [3.133_856_1, -1.616_866_7, -0.490_614_6],
    [-0.978_768_4, 1.916_141_5, 0.033_454_0],
    [0.071_945_3, -0.228_991_4, 1.405_242_7],
];

fn product(matrix: [[f64; 3]; 3], vector: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
}

/// RecommendedDisplayCIELabValue of an sRGB colour: L from 0 to 65535 for 0 to 100, a and b from 0 to
/// 65535 for -128 to 127.
pub(super) fn to_cielab(rgb: [u8; 3]) -> [u16; 3] {
    let linear = rgb.map(|value| {
        let value = f64::from(value) / 255.0;
        if value <= 0.040_45 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    });
    let [x, y, z] = product(TO_XYZ, linear);
    let [x, y, z] = [x / WHITE[0], y / WHITE[1], z / WHITE[2]].map(|ratio| {
        if ratio > EPSILON {
            ratio.cbrt()
        } else {
            (KAPPA * ratio + 16.0) / 116.0
        }
    });
    let scaled = |value: f64| value.round().clamp(0.0, 65535.0) as u16;
    [
        scaled((116.0 * y - 16.0) * 65535.0 / 100.0),
        scaled((500.0 * (x - y) + 128.0) * 257.0),
        scaled((200.0 * (y - z) + 128.0) * 257.0),
    ]
}

/// The sRGB colour of a RecommendedDisplayCIELabValue; colours beyond sRGB are cut.
pub(super) fn from_cielab([l, a, b]: [u16; 3]) -> [u8; 3] {
    let y = (f64::from(l) * 100.0 / 65535.0 + 16.0) / 116.0;
    let x = (f64::from(a) / 257.0 - 128.0) / 500.0 + y;
    let z = y - (f64::from(b) / 257.0 - 128.0) / 200.0;
    let [x, y, z] = [x, y, z].map(|value| {
        if value.powi(3) > EPSILON {
            value.powi(3)
        } else {
            (116.0 * value - 16.0) / KAPPA
        }
    });
    product(FROM_XYZ, [x * WHITE[0], y * WHITE[1], z * WHITE[2]]).map(|value| {
        let value = if value <= 0.003_130_8 {
            12.92 * value
        } else {
            1.055 * value.powf(1.0 / 2.4) - 0.055
        };
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_black_and_red_are_where_they_belong() {
        // CIELab of sRGB under D50: white (100, 0, 0), red (54.29, 80.81, 69.89), by Lindbloom.
        assert_eq!(to_cielab([0, 0, 0]), [0, 32896, 32896]);
        let [l, a, b] = to_cielab([255, 255, 255]);
        assert!(l >= 65530 && a.abs_diff(32896) < 8 && b.abs_diff(32896) < 8);
        let [l, a, b] = to_cielab([255, 0, 0]).map(f64::from);
        assert!((l * 100.0 / 65535.0 - 54.29).abs() < 0.02);
        assert!((a / 257.0 - 128.0 - 80.81).abs() < 0.05);
        assert!((b / 257.0 - 128.0 - 69.89).abs() < 0.05);
    }

    #[test]
    fn every_colour_comes_back() {
        for red in (0..=255).step_by(5) {
            for green in (0..=255).step_by(5) {
                for blue in (0..=255).step_by(3) {
                    let rgb = [red, green, blue].map(|value: i32| value as u8);
                    assert_eq!(from_cielab(to_cielab(rgb)), rgb);
                }
            }
        }
    }
}
