use super::*;
use crate::nn::arch::{EncoderKind, ResidualEncoder};
use serde_json::json;

/// Plans with one configuration in the spelling of nnU-Net 2.4 and later.
fn plans() -> Value {
    json!({
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {"3d_fullres": {
            "patch_size": [16, 32, 32],
            "spacing": [2.0, 1.5, 1.5],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [true],
            "architecture": {
                "network_class_name": "somewhere.else.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [8, 16, 32],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[1, 3, 3], [3, 3, 3], 3],
                    "strides": [1, [1, 2, 2], [2, 2, 2]],
                    "n_conv_per_stage": 2,
                    "n_conv_per_stage_decoder": [3, 1],
                    "conv_bias": true,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": true},
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": true}
                }
            }
        }}
    })
}

fn configuration(plans: &Value, name: &str) -> Result<Configuration, Error> {
    Plans::parse(plans.to_string().as_bytes(), "plans.json")?.configuration(name)
}

/// The message after the value at `pointer` (below the configuration) became `value`.
fn message(pointer: &str, value: Value) -> String {
    let mut plans = plans();
    let pointer = format!("/configurations/3d_fullres/{pointer}");
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    plans.pointer_mut(parent).unwrap()[key] = value;
    let error = configuration(&plans, "3d_fullres").unwrap_err().to_string();
    assert!(
        error.starts_with("plans.json: configurations.3d_fullres."),
        "{error}"
    );
    error
}

#[test]
fn scalars_hold_for_every_stage() {
    let found = configuration(&plans(), "3d_fullres").unwrap();
    let spec = found.to_unet_spec(1, 4).unwrap();
    let kernels: Vec<_> = spec.stages.iter().map(|stage| stage.kernel).collect();
    assert_eq!(kernels, [[1, 3, 3], [3, 3, 3], [3, 3, 3]]);
    let strides: Vec<_> = spec.stages.iter().map(|stage| stage.stride).collect();
    assert_eq!(strides, [[1, 1, 1], [1, 2, 2], [2, 2, 2]]);
    // The file lists the decoder from the lowest resolution up.
    let convs = spec
        .stages
        .iter()
        .map(|stage| (stage.encoder_convs, stage.decoder_convs));
    assert_eq!(convs.collect::<Vec<_>>(), [(2, 1), (2, 3), (2, 0)]);
    assert_eq!((spec.in_channels, spec.out_channels), (1, 4));
    assert_eq!(spec.negative_slope, 0.01);
    assert_eq!(
        found.normalization,
        [Normalization::ZScore { inside_mask: true }]
    );
}

#[test]
fn old_and_new_spelling_agree() {
    let mut old = plans();
    let settings = old["configurations"]["3d_fullres"].as_object_mut().unwrap();
    settings.remove("architecture");
    let more = json!({
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 8,
        "unet_max_num_features": 24,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [3, 1],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    });
    settings.extend(more.as_object().unwrap().clone());
    let old = configuration(&old, "3d_fullres").unwrap();
    let mut expected = configuration(&plans(), "3d_fullres")
        .unwrap()
        .to_unet_spec(1, 2)
        .unwrap();
    // 8, 16, 32 capped at 24.
    expected.stages[2].features = 24;
    assert_eq!(old.to_unet_spec(1, 2).unwrap(), expected);
}

#[test]
fn a_configuration_inherits_and_overrides() {
    let mut plans = plans();
    let all = &mut plans["configurations"];
    all["3d_lowres"] = json!({"inherits_from": "3d_fullres", "spacing": [4, 3, 3]});
    all["cascade"] = json!({"inherits_from": "3d_lowres", "previous_stage": "3d_lowres"});
    let cascade = configuration(&plans, "cascade").unwrap();
    assert_eq!(cascade.spacing_mm, [4.0, 3.0, 3.0].map(Some));
    assert_eq!(cascade.previous_stage.as_deref(), Some("3d_lowres"));
    assert_eq!(cascade.patch_size, [16, 32, 32]);
}

#[test]
fn circles_and_orphans_are_named() {
    let mut plans = plans();
    let all = &mut plans["configurations"];
    all["a"] = json!({"inherits_from": "b"});
    all["b"] = json!({"inherits_from": "a"});
    all["self"] = json!({"inherits_from": "self"});
    all["orphan"] = json!({"inherits_from": "nobody"});
    let error = |name| configuration(&plans, name).unwrap_err().to_string();
    assert!(
        error("a").contains("configurations.b.inherits_from"),
        "{}",
        error("a")
    );
    assert!(
        error("self").contains("does not inherit"),
        "{}",
        error("self")
    );
    assert!(
        error("orphan").contains("found \"nobody\""),
        "{}",
        error("orphan")
    );
    assert!(
        error("missing").contains("there are 3d_fullres, a, b"),
        "{}",
        error("missing")
    );
}

#[test]
fn two_dimensions_get_a_leading_one() {
    let mut plans = plans();
    let settings = &mut plans["configurations"]["3d_fullres"];
    settings["patch_size"] = json!([64, 32]);
    settings["spacing"] = json!([0.5, 0.75]);
    let arguments = &mut settings["architecture"]["arch_kwargs"];
    arguments["conv_op"] = json!("torch.nn.modules.conv.Conv2d");
    arguments["norm_op"] = json!("torch.nn.modules.instancenorm.InstanceNorm2d");
    arguments["kernel_sizes"] = json!([[3, 3], 3, [5, 3]]);
    arguments["strides"] = json!([1, 2, [2, 1]]);
    let found = configuration(&plans, "3d_fullres").unwrap();
    assert_eq!((found.spatial_dims, found.patch_size), (2, [1, 64, 32]));
    assert_eq!(found.spacing_mm, [None, Some(0.5), Some(0.75)]);
    let spec = found.to_unet_spec(1, 2).unwrap();
    assert_eq!(spec.stages[2].kernel, [1, 5, 3]);
    assert_eq!(spec.total_stride(), [1, 4, 2]);
}

#[test]
fn values_that_make_no_sense_name_their_key() {
    for (pointer, value, expected) in [
        (
            "patch_size",
            json!([32, 32]),
            "3 sizes, as conv_op is Conv3d",
        ),
        (
            "patch_size",
            json!([16, 32, 31]),
            "multiples of the network's strides [2, 4, 4]",
        ),
        ("patch_size", json!([16, 32.5, 32]), "found [16,32.5,32]"),
        (
            "spacing",
            json!([2.0, "NaN", 1.5]),
            "from 0.0001 to 10000 mm",
        ),
        ("normalization_schemes", json!([]), "1 schemes"),
        (
            "preprocessor_name",
            json!("MyPreprocessor"),
            "DefaultPreprocessor",
        ),
        (
            "resampling_fn_data",
            json!("resample_mine"),
            "\"resample_mine\" is not supported",
        ),
        (
            "resampling_fn_data_kwargs",
            json!({"order": 2}),
            "orders 0, 1 and 3",
        ),
        (
            "resampling_fn_seg_kwargs",
            json!({"force_separate_z": "yes"}),
            "true or false",
        ),
        (
            "architecture/network_class_name",
            json!("x.ResidualUNet"),
            "medseg knows PlainConvUNet and ResidualEncoderUNet",
        ),
        (
            "architecture/arch_kwargs/norm_op",
            json!(null),
            "instance norm",
        ),
        (
            "architecture/arch_kwargs/norm_op",
            json!("torch.nn.BatchNorm3d"),
            "InstanceNorm3d",
        ),
        (
            "architecture/arch_kwargs/nonlin",
            json!("torch.nn.ReLU"),
            "LeakyReLU",
        ),
        (
            "architecture/arch_kwargs/n_stages",
            json!(1),
            "from 2 to 16",
        ),
        (
            "architecture/arch_kwargs/features_per_stage",
            json!([8, 16]),
            "3 numbers for 3 stages",
        ),
        (
            "architecture/arch_kwargs/n_conv_per_stage",
            json!([2, 0, 2]),
            "from 1 to 64",
        ),
        ("architecture/arch_kwargs/kernel_sizes", json!(4), "odd"),
        (
            "architecture/arch_kwargs/norm_op_kwargs",
            json!({"eps": 0}),
            "between 0 and 1",
        ),
    ] {
        let text = message(pointer, value);
        assert!(text.contains(expected), "{pointer}: {text}");
        let key = pointer.replace('/', ".");
        assert!(text.contains(&key), "{pointer}: {text}");
    }
}

#[test]
fn axes_must_be_a_permutation_and_its_inverse() {
    let parse = |plans: &Value| Plans::parse(plans.to_string().as_bytes(), "plans.json");
    assert_eq!(parse(&plans()).unwrap().transpose_forward, [1, 0, 2]);
    let mut wrong = plans();
    wrong["transpose_backward"] = json!([0, 1, 2]);
    let text = parse(&wrong).unwrap_err().to_string();
    assert!(
        text.contains("transpose_backward: expected the inverse"),
        "{text}"
    );
    wrong["transpose_forward"] = json!([0, 1]);
    assert!(
        parse(&wrong)
            .unwrap_err()
            .to_string()
            .contains("transpose_forward")
    );
    let mut reader = plans();
    reader["image_reader_writer"] = json!("NibabelIOWithReorient");
    assert_eq!(parse(&reader).unwrap().orientation, Orientation::Ras);
    reader["image_reader_writer"] = json!("Blosc2IO");
    assert!(parse(&reader).unwrap_err().to_string().contains("Blosc2IO"));
}

#[test]
fn a_network_beyond_the_limit_is_refused() {
    let mut plans = plans();
    let arguments = &mut plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"];
    arguments["features_per_stage"] = json!(16_384);
    let found = configuration(&plans, "3d_fullres").unwrap();
    let text = found.to_unet_spec(1, 2).unwrap_err().to_string();
    assert!(text.contains("parameters, more than 1073741824"), "{text}");
}

#[test]
fn resampling_has_defaults_and_takes_arguments() {
    let mut plans = plans();
    let found = configuration(&plans, "3d_fullres").unwrap();
    assert_eq!(found.resampling_data.order, 3);
    assert_eq!(found.resampling_seg.order, 1);
    let arguments = json!({"is_seg": false, "order": 1, "order_z": 1, "force_separate_z": true});
    plans["configurations"]["3d_fullres"]["resampling_fn_probabilities_kwargs"] = arguments;
    let found = configuration(&plans, "3d_fullres").unwrap();
    let expected = Resampling {
        torch: false,
        order: 1,
        order_z: 1,
        force_separate_z: Some(true),
    };
    assert_eq!(found.resampling_probabilities, expected);
}

#[test]
fn torch_resampling_with_what_it_can_be_told() {
    let mut plans = plans();
    let own = &mut plans["configurations"]["3d_fullres"];
    own["resampling_fn_data"] = json!("resample_torch_fornnunet");
    own["resampling_fn_data_kwargs"] = json!({"is_seg": false, "force_separate_z": false});
    let found = configuration(&plans, "3d_fullres").unwrap();
    let expected = Resampling {
        torch: true,
        order: 1,
        order_z: 0,
        force_separate_z: Some(false),
    };
    assert_eq!(found.resampling_data, expected);
    for (key, value) in [
        ("mode", json!("nearest")),
        ("aniso_axis_mode", json!("linear")),
        ("memefficient_seg_resampling", json!(true)),
        ("separate_z_anisotropy_threshold", json!(4)),
    ] {
        plans["configurations"]["3d_fullres"]["resampling_fn_data_kwargs"] = json!({key: value});
        let error = configuration(&plans, "3d_fullres").unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn residual_encoders_of_both_spellings() {
    let parse = |arguments: &[(&str, Value)]| {
        let mut plans = plans();
        let architecture = &mut plans["configurations"]["3d_fullres"]["architecture"];
        architecture["network_class_name"] = json!("x.y.ResidualEncoderUNet");
        let kwargs = architecture["arch_kwargs"].as_object_mut().unwrap();
        let blocks = kwargs.remove("n_conv_per_stage").unwrap();
        kwargs.insert("n_blocks_per_stage".to_owned(), blocks);
        for (key, value) in arguments {
            kwargs.insert((*key).to_owned(), value.clone());
        }
        configuration(&plans, "3d_fullres")
    };
    let encoder = |configuration: Configuration| match configuration.network().encoder.clone() {
        EncoderKind::Residual(encoder) => encoder,
        EncoderKind::Plain => panic!("a residual encoder"),
    };
    let basic = parse(&[]).unwrap();
    let first = basic.network().stages[0].features;
    assert_eq!(
        encoder(basic),
        ResidualEncoder {
            stem_features: first,
            bottleneck: None
        }
    );
    let narrow = [
        ("block", json!("x.BottleneckD")),
        ("bottleneck_channels", json!(2)),
        ("stem_channels", json!(3)),
    ];
    let found = encoder(parse(&narrow).unwrap());
    assert_eq!(found.stem_features, 3);
    assert!(found.bottleneck.unwrap().iter().all(|&n| n == 2));
    let message = parse(&[("block", json!("x.Other"))])
        .unwrap_err()
        .to_string();
    assert!(message.contains("BasicBlockD and BottleneckD"), "{message}");
}
