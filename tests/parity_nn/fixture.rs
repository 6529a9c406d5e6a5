//! Networks with an input and PyTorch's logits: made by `testdata/nn_make.py` (versions and seed there).

use medseg::nn::arch::{EncoderKind, ResidualEncoder, Stage, UnetSpec};
use medseg::nn::weights::{Tensor, Weights};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;

pub const FIXTURES: [&str; 8] = [
    "iso",
    "aniso",
    "flat",
    "wide",
    "bare",
    "blocks",
    "residual",
    "bottleneck",
];

pub struct Fixture {
    pub spec: UnetSpec,
    pub weights: Weights,
    pub patch: [usize; 3],
    pub input: Vec<f32>,
    pub logits: Vec<f32>,
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn triple(value: &Value) -> [usize; 3] {
    std::array::from_fn(|axis| number(&value[axis]))
}

fn encoder(json: &Value) -> EncoderKind {
    if json.is_null() {
        return EncoderKind::Plain;
    }
    let numbers = |list: &Vec<Value>| list.iter().map(number).collect();
    EncoderKind::Residual(ResidualEncoder {
        stem_features: number(&json["stem_features"]),
        bottleneck: json["bottleneck"].as_array().map(numbers),
    })
}

pub fn load(name: &str) -> Fixture {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/nn_{name}.safetensors"));
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let json: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["spec"]).unwrap();
    let stage = |stage: &Value| Stage {
        features: number(&stage["features"]),
        kernel: triple(&stage["kernel"]),
        stride: triple(&stage["stride"]),
        encoder_convs: number(&stage["encoder_convs"]),
        decoder_convs: number(&stage["decoder_convs"]),
    };
    let spec = UnetSpec {
        encoder: encoder(&json["residual"]),
        spatial_dims: number(&json["spatial_dims"]),
        in_channels: number(&json["in_channels"]),
        out_channels: number(&json["out_channels"]),
        stages: json["stages"]
            .as_array()
            .unwrap()
            .iter()
            .map(stage)
            .collect(),
        conv_bias: json["conv_bias"].as_bool().unwrap(),
        norm_eps: json["norm_eps"].as_f64().unwrap(),
        norm_affine: json["norm_affine"].as_bool().unwrap(),
        negative_slope: json["negative_slope"].as_f64().unwrap() as f32,
    };
    let mut weights = Weights::new();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let (quads, _) = view.data().as_chunks::<4>();
        let data = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
        let shape = view.shape().to_vec();
        weights.insert(name, Tensor { shape, data });
    }
    Fixture {
        spec,
        patch: triple(&json["patch"]),
        input: weights.remove("input").unwrap().data,
        logits: weights.remove("logits").unwrap().data,
        weights,
    }
}

/// `data` `[channels][z][y][x]` mirrored along the axes `flip`.
pub fn mirrored(data: &[f32], patch: [usize; 3], flip: [bool; 3]) -> Vec<f32> {
    let [depth, height, width] = patch;
    let at = |n: usize, i: usize, back: bool| if back { n - 1 - i } else { i };
    let mut result = Vec::with_capacity(data.len());
    for channel in data.chunks(depth * height * width) {
        for z in 0..depth {
            for y in 0..height {
                for x in 0..width {
                    let (z, y) = (at(depth, z, flip[0]), at(height, y, flip[1]));
                    result.push(channel[(z * height + y) * width + at(width, x, flip[2])]);
                }
            }
        }
    }
    result
}
