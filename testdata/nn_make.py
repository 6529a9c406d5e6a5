"""Makes the network fixtures testdata/nn_*.safetensors read by tests/parity_nn.rs.

torch 2.15.0 (CPU), dynamic_network_architectures 0.4.4, safetensors 0.8.0, seed below. Each file holds
the canonical state dict of a randomly initialised PlainConvUNet or ResidualEncoderUNet (norm scales and shifts randomised too),
`input` [C, D, H, W] and `logits` [K, D, H, W] computed in float64; the architecture is in the metadata.

    python testdata/nn_make.py
"""
import json
import pathlib

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
# name: (dims, in, classes, features, kernels, strides, encoder convs, decoder convs, patch, bias, affine)
NETS = {
    "iso": (3, 1, 3, [5, 7, 9], [[3] * 3] * 3, [[1] * 3, [2] * 3, [2] * 3], [2, 1, 2], [1, 2], [8, 12, 20], True, True),
    "aniso": (3, 2, 4, [6, 8, 12], [[1, 3, 3], [1, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
              [1, 2, 1], [2, 1], [6, 20, 12], True, True),
    "flat": (2, 1, 11, [8, 17, 33], [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]], [2, 1, 1], [1, 2], [28, 36], True, True),
    "wide": (3, 5, 2, [4, 20], [[5, 1, 7], [3, 5, 1]], [[1, 1, 1], [2, 1, 2]], [1, 1], [1], [6, 7, 10], True, True),
    "bare": (3, 3, 1, [3, 4], [[3, 3, 3]] * 2, [[1, 1, 1], [1, 2, 1]], [1, 1], [1], [3, 10, 5], False, False),
    "blocks": (2, 9, 40, [10, 50], [[3, 3], [3, 3]], [[1, 1], [2, 2]], [1, 1], [1], [6, 34], True, True),
    "residual": (3, 2, 3, [5, 9, 9], [[3] * 3, [1, 3, 3], [3] * 3], [[1] * 3, [1, 2, 2], [2] * 3], [1, 2, 2], [1, 1],
                 [6, 12, 16], True, True),
    "bottleneck": (2, 1, 4, [8, 20], [[3, 3]] * 2, [[1, 1], [2, 2]], [2, 2], [1], [12, 38], True, True),
}
# Arguments of a ResidualEncoderUNet; for these nets "encoder convs" above are blocks.
RESIDUAL = {"residual": {}, "bottleneck": dict(block=BottleneckD, bottleneck_channels=[4, 10], stem_channels=6)}


def pad(values):
    return [1] * (3 - len(values)) + list(values)


for index, (name, net) in enumerate(NETS.items()):
    dims, cin, classes, features, kernels, strides, encoder, decoder, patch, bias, affine = net
    torch.manual_seed(20240 + index)
    three = dims == 3
    kind = ResidualEncoderUNet if name in RESIDUAL else PlainConvUNet
    model = kind(
        cin, len(features), features, torch.nn.Conv3d if three else torch.nn.Conv2d, kernels, strides, encoder,
        classes, decoder, conv_bias=bias, norm_op=torch.nn.InstanceNorm3d if three else torch.nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": affine}, nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True, "negative_slope": 0.01},
        **RESIDUAL.get(name, {}))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key or "all_modules.1" in key:
                value.uniform_(0.5, 1.5) if key.endswith("weight") else value.uniform_(-0.5, 0.5)
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items()
             if "all_modules" not in k and not k.startswith("decoder.encoder.")}
    data = torch.randn(1, cin, *patch)
    with torch.inference_mode():
        logits = model.double()(data.double())[0].float()
    state["input"] = data[0].reshape(cin, *pad(patch)).contiguous()
    state["logits"] = logits.reshape(classes, *pad(patch)).contiguous()
    count = len(features)
    spec = dict(
        spatial_dims=dims, in_channels=cin, out_channels=classes, conv_bias=bias, norm_eps=1e-5, norm_affine=affine,
        negative_slope=0.01, patch=pad(patch),
        stages=[dict(features=features[s], kernel=pad(kernels[s]), stride=pad(strides[s]), encoder_convs=encoder[s],
                     decoder_convs=decoder[count - 2 - s] if s < count - 1 else 0) for s in range(count)])
    if name in RESIDUAL:
        more = RESIDUAL[name]
        spec["residual"] = dict(stem_features=more.get("stem_channels", features[0]),
                                bottleneck=more.get("bottleneck_channels"))
    path = HERE / f"nn_{name}.safetensors"
    save_file(state, path, metadata={"spec": json.dumps(spec)})
    print(path.name, path.stat().st_size)
