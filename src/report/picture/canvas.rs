//! A rectangle of pixels that can be drawn on and written as PNG.

use super::Png;

/// Red, green, blue.
pub type Rgb = [u8; 3];

pub const BLACK: Rgb = [0, 0, 0];
pub const WHITE: Rgb = [255, 255, 255];

/// Width and height of a character at scale 1, in pixels.
pub const CHARACTER: usize = 8;

/// Pixels, row by row from the top left.
#[derive(Debug, Clone)]
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// At least one pixel, all of one colour.
    pub fn new(width: usize, height: usize, color: Rgb) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self {
            width,
            height,
            pixels: vec![color; width * height],
        }
    }

    /// Sets a pixel; outside nothing happens.
    pub fn set(&mut self, x: usize, y: usize, color: Rgb) {
        if x < self.width
            && let Some(pixel) = self.pixels.get_mut(y * self.width + x)
        {
            *pixel = color;
        }
    }

    /// Mixes a colour into a pixel: `share` 0 leaves it, 1 replaces it.
    pub fn blend(&mut self, x: usize, y: usize, color: Rgb, share: f32) {
        if x >= self.width {
            return;
        }
        if let Some(pixel) = self.pixels.get_mut(y * self.width + x) {
            for (value, new) in pixel.iter_mut().zip(color) {
                *value = (f32::from(*value) * (1.0 - share) + f32::from(new) * share).round() as u8;
            }
        }
    }

    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: Rgb) {
        for row in y..y + height {
            for column in x..x + width {
                self.set(column, row, color);
            }
        }
    }

    /// Copies `other` with its top left corner at `(x, y)`.
    pub fn paste(&mut self, other: &Self, x: usize, y: usize) {
        for (row, pixels) in other.pixels.chunks(other.width).enumerate() {
            for (column, &color) in pixels.iter().enumerate() {
                self.set(x + column, y + row, color);
            }
        }
    }

    /// One line of text. Characters outside ASCII have no glyph and become `?`.
    pub fn text(&mut self, x: usize, y: usize, scale: usize, text: &str, color: Rgb) {
        for (index, character) in text.chars().enumerate() {
            let code = if character.is_ascii_graphic() || character == ' ' {
                character as usize
            } else {
                usize::from(b'?')
            };
            let glyph = font8x8::legacy::BASIC_LEGACY
                .get(code)
                .copied()
                .unwrap_or_default();
            for (row, bits) in glyph.into_iter().enumerate() {
                for column in (0..CHARACTER).filter(|column| bits >> column & 1 == 1) {
                    let left = x + (index * CHARACTER + column) * scale;
                    self.fill(left, y + row * scale, scale, scale, color);
                }
            }
        }
    }

    /// Text on a black ground, readable over any picture.
    pub fn label(&mut self, x: usize, y: usize, text: &str) {
        let width = text.chars().count() * CHARACTER;
        self.fill(x, y, width + 2, CHARACTER + 2, BLACK);
        self.text(x + 1, y + 1, 1, text, WHITE);
    }

    /// The pixels as an 8-bit RGB PNG file.
    pub fn png(&self) -> Png {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Balanced);
        let mut writer = encoder
            .write_header()
            .expect("a picture has at least one pixel and memory takes any bytes");
        writer
            .write_image_data(self.pixels.as_flattened())
            .expect("there are three bytes for every pixel");
        writer.finish().expect("memory takes any bytes");
        Png(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_reads_back_as_drawn() {
        let mut canvas = Canvas::new(5, 3, BLACK);
        canvas.set(4, 2, [1, 2, 3]);
        canvas.set(5, 0, WHITE);
        canvas.blend(0, 0, [200, 100, 0], 0.5);
        let Png(bytes) = canvas.png();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; 45];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels[42..], [1, 2, 3]);
        assert_eq!(pixels[..6], [100, 50, 0, 0, 0, 0]);
    }

    #[test]
    fn letters_differ_and_unknown_ones_are_marked() {
        let drawn = |text: &str| {
            let mut canvas = Canvas::new(8, 8, BLACK);
            canvas.text(0, 0, 1, text, WHITE);
            canvas.pixels
        };
        assert_ne!(drawn("A"), drawn("B"));
        assert_eq!(drawn("간"), drawn("?"));
        assert!(drawn(" ").iter().all(|&pixel| pixel == BLACK));
    }
}
