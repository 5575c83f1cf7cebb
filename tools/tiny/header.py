"""The header of the embedded base: the published keys with sizes for a laptop.

Out: `CONFIG`, what a checkpoint of LTX-2.3 carries as its `config`, and `MODEL_VERSION`.
"""

from __future__ import annotations

from typing import Any

MODEL_VERSION = "2.3.0"
TEXT_CHANNELS = 128
HEADS = 8
AUDIO_HEAD_DIM, VIDEO_HEAD_DIM = 24, 8
AUDIO_CHANNELS, VIDEO_CHANNELS = 64, 32  # of a latent token

_AMP_BLOCKS = {
    "resblock": "AMP1",
    "stereo": True,
    "use_tanh_at_final": False,
    "activation": "snakebeta",
    "use_bias_at_final": False,
}

CONFIG: dict[str, Any] = {
    "transformer": {
        "_class_name": "AVTransformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "num_layers": 6,
        "num_attention_heads": HEADS,
        "attention_head_dim": VIDEO_HEAD_DIM,
        "in_channels": VIDEO_CHANNELS,
        "out_channels": VIDEO_CHANNELS,
        "cross_attention_dim": HEADS * VIDEO_HEAD_DIM,
        "caption_channels": TEXT_CHANNELS,
        "norm_eps": 1e-06,
        "norm_elementwise_affine": False,
        "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm",
        "positional_embedding_type": "rope",
        "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048],
        "timestep_scale_multiplier": 1000,
        "av_ca_timestep_scale_multiplier": 1000.0,
        "audio_num_attention_heads": HEADS,
        "audio_attention_head_dim": AUDIO_HEAD_DIM,
        "audio_in_channels": AUDIO_CHANNELS,
        "audio_out_channels": AUDIO_CHANNELS,
        "audio_cross_attention_dim": HEADS * AUDIO_HEAD_DIM,
        "audio_positional_embedding_max_pos": [20],
        "use_audio_video_cross_attention": True,
        "av_cross_ada_norm": True,
        "share_ff": False,
        "use_embeddings_connector": True,
        "connector_num_attention_heads": HEADS,
        "connector_attention_head_dim": VIDEO_HEAD_DIM,
        "connector_num_layers": 2,
        "connector_positional_embedding_max_pos": [4096],
        "connector_num_learnable_registers": 128,
        "connector_norm_output": True,
        "connector_apply_gated_attention": True,
        "audio_connector_num_attention_heads": HEADS,
        "audio_connector_attention_head_dim": AUDIO_HEAD_DIM,
        "use_middle_indices_grid": True,
        "apply_gated_attention": True,
        "cross_attention_adaln": True,
        "caption_proj_before_connector": True,
        "caption_projection_first_linear": False,
        "caption_projection_second_linear": False,
        "caption_proj_input_norm": False,
        "text_encoder_norm_type": "per_token_rms",
        "rope_type": "split",
        "frequencies_precision": "float64",
        "num_embeds_ada_norm": 1000,
        "cross_attention_norm": True,
        "causal_temporal_positioning": True,
        "dropout": 0.0,
        "use_linear_projection": False,
        "only_cross_attention": False,
        "double_self_attention": False,
        "upcast_attention": False,
        "num_vector_embeds": None,
    },
    "audio_vae": {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True,
                    "mel_bins": 64,
                    "z_channels": AUDIO_CHANNELS // 16,
                    "resolution": 256,
                    "downsample_time": False,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": AUDIO_CHANNELS,
                    "ch_mult": [1, 1, 1],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                    "mid_block_add_attention": False,
                    "norm_type": "pixel",
                    "causality_axis": "height",
                },
                "sampling_rate": 16000,
            }
        },
        "preprocessing": {
            "audio": {"sampling_rate": 16000},
            "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
            "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
        },
    },
    "vocoder": {
        "vocoder": {
            **_AMP_BLOCKS,
            "upsample_initial_channel": 256,
            "upsample_rates": [2, 4, 5, 4],
            "upsample_kernel_sizes": [4, 8, 15, 12],
            "resblock_kernel_sizes": [5],
            "resblock_dilation_sizes": [[1, 3]],
        },
        "bwe": {
            **_AMP_BLOCKS,
            "upsample_initial_channel": 64,
            "upsample_rates": [8, 6, 5],
            "upsample_kernel_sizes": [16, 12, 15],
            "resblock_kernel_sizes": [5],
            "resblock_dilation_sizes": [[1, 3]],
            "apply_final_activation": False,
            "input_sampling_rate": 16000,
            "output_sampling_rate": 48000,
            "hop_length": 80,
            "n_fft": 512,
            "win_size": 512,
            "num_mels": 64,
        },
    },
    "vae": {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": VIDEO_CHANNELS,
        "patch_size": 4,
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "causal_decoder": False,
        "timestep_conditioning": False,
        "spatial_padding_mode": "zeros",
        "encoder_spatial_padding_mode": "zeros",
        "encoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_time_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
        ],
    },
    "scheduler": {
        "_class_name": "RectifiedFlowScheduler",
        "num_train_timesteps": 1000,
        "sampler": "LinearQuadratic",
    },
}
