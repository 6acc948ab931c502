"""LIBRARY_NETWORKS: sources of torchvision, timm and segmentation_models_pytorch, at least one of each architecture.

Each row is a source as `percept export` takes it. The smallest variant stands for its architecture.
"""

TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf"),
    *("regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg16_bn", "vit_b_32", "wide_resnet50_2"),
    *("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large"),
)
TIMM = (
    *("bat_resnext26ts", "botnet26t_256", "cait_xxs24_224", "caformer_s18", "coat_tiny", "coatnet_0_rw_224"),
    *("convformer_s18", "convit_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto", "crossvit_tiny_240"),
    *("cspdarknet53", "cspresnet50", "darknet53", "davit_tiny", "deit_tiny_distilled_patch16_224"),
    *("deit_tiny_patch16_224", "densenet121", "dla34", "dla46x_c", "dpn48b", "eca_nfnet_l0", "ecaresnet26t"),
    *("edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0", "efficientnet_lite0"),
    *("efficientnetv2_rw_t", "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_dw", "fasternet_t0", "fastvit_t8"),
    *("fbnetc_100", "focalnet_tiny_srf", "gcresnext26ts", "gcvit_xxtiny", "ghostnet_100", "ghostnetv2_100"),
    *("gmlp_s16_224", "hardcorenas_a", "hgnet_tiny", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small"),
    *("inception_next_atto", "inception_v3", "lambda_resnet26t", "lcnet_050", "legacy_seresnet18", "levit_128s"),
    *("mambaout_femto", "maxvit_rmlp_pico_rw_256", "mixer_s32_224", "mixnet_s", "mnasnet_100", "mobilenetv2_050"),
    *("mobilenetv3_small_050", "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050"),
    *("mvitv2_tiny", "nest_tiny", "nextvit_small", "nf_resnet26", "pit_ti_224", "poolformer_s12", "poolformerv2_s12"),
    *("pvt_v2_b0", "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0", "repvit_m0_9", "res2net50_48w_2s"),
    *("resmlp_12_224", "resnest14d", "resnet18", "resnet18d", "resnet26t", "resnetblur18", "resnetv2_18"),
    *("resnetv2_50x1_bit", "resnext26ts", "rexnet_100", "selecsls42", "semnasnet_050", "sequencer2d_s", "seresnet18"),
    *("shvit_s1", "skresnet18", "spnasnet_100", "starnet_s1", "swiftformer_xs", "swin_tiny_patch4_window7_224"),
    *("swinv2_cr_tiny_ns_224", "swinv2_tiny_window8_256", "tf_efficientnet_lite0", "tf_efficientnetv2_b0"),
    *("tiny_vit_5m_224", "tinynet_e", "tnt_s_patch16_224", "tresnet_m", "twins_pcpvt_small", "twins_svt_small"),
    *("vgg11", "visformer_tiny", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224", "volo_d1_224"),
    *("xception41", "xcit_nano_12_p16_224"),
)
SMP = (
    *(f"{architecture}?encoder_name=resnet18&classes=5" for architecture in ("Unet", "UnetPlusPlus", "FPN")),
    *(f"{architecture}?encoder_name=resnet18&classes=5" for architecture in ("Linknet", "MAnet", "PAN", "PSPNet")),
    *(f"{architecture}?encoder_name=resnet18&classes=5" for architecture in ("DeepLabV3", "DeepLabV3Plus", "UPerNet")),
    "Segformer?encoder_name=mit_b0&classes=5",
    "Unet?encoder_name=mobilenet_v2&classes=5",
    "Unet?encoder_name=efficientnet-b0&classes=5",
    "Unet?encoder_name=densenet121&classes=5",
    "Unet?encoder_name=vgg11&classes=5",
    "FPN?encoder_name=timm-mobilenetv3_small_100&classes=5",
    "Unet?encoder_name=resnet18&classes=5&activation=softmax2d",
    "Unet?encoder_name=resnet18&classes=5&activation=sigmoid",
    "Unet?encoder_name=resnet18&classes=1",
    "Unet?encoder_name=resnet18&classes=1&activation=sigmoid",
    "Unet?encoder_name=resnet18&classes=3&in_channels=1",
)

LIBRARY_NETWORKS = (
    *(f"torchvision:{name}" for name in TORCHVISION),
    *(f"timm:{name}" for name in TIMM),
    *(f"smp:{source}" for source in SMP),
)
