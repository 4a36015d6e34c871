"""Presets of `imagenet_search`: complete settings of a search, by name. Learning rates are for 256 images a step.

smoke   python -m experiments.make_images --out data --classes 20 --images 2000
        python -m experiments.imagenet_search --preset smoke --data-dir data --workdir runs/smoke
        20 steps of a narrow network on small images: whether everything works, on any machine. Nothing is learnt. It
        has 8 layers and a small learning rate so that rounding, which fresh networks of many batch norms amplify, does
        not grow from step to step: runs on different numbers of devices can be compared.

full    python -m experiments.imagenet_search --preset full --data-dir DIR --precision bfloat16 --workdir runs/full
        Half of ImageNet's training images for the weights, one uniformly drawn network a step, 120 passes; then the
        distributions with frozen weights, 4 networks at once. `python -m benchmarks.scaling` counts its work and says
        which device hours follow on an accelerator of a given speed. Never run: no accelerator was at hand.
"""

from jaxnas.search.presets import Preset
from jaxnas.search.settings import SearchSettings

IMAGES_A_STEP = 256  # that the learning rates are for; they grow with the minibatch (Goyal et al., arXiv 1706.02677)

PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        dataset="imagenet2012",
        space="nasbench_macro",
        penalties=(0.05, 0.4),
        samples=2,
        candidates=2,
        valid_fraction=0.5,
        width=0.25,
        image_size=64,
        settings=SearchSettings(
            joint_steps=20,
            batch_size=32,
            valid_batch_size=32,
            weight_samples=1,
            learning_rate=0.001,
            warmup=0.2,
            label_smoothing=0.1,
            crop_padding=0,
            steps_per_dispatch=5,
            batching="vmap",  # compiles in half the time, which is most of it
        ),
    ),
    "full": Preset(
        dataset="imagenet2012",
        space="mbconv_imagenet",
        penalties=(0.02, 0.05, 0.12, 0.3),
        samples=4,
        candidates=32,
        valid_fraction=0.5,
        width=1.0,
        image_size=224,
        settings=SearchSettings(
            weight_steps=75_000,  # 120 passes over 640,000 images
            distribution_steps=2_000,
            batch_size=1024,
            valid_batch_size=1024,
            weight_samples=1,
            learning_rate=0.125,
            warmup=0.04,
            weight_decay=4e-5,
            label_smoothing=0.1,
            crop_padding=0,
            chunk_size=4,
            steps_per_dispatch=25,
        ),
    ),
}
