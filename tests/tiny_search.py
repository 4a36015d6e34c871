"""`experiments.cifar_search` with one more space, of two layers, that compiles in seconds."""

from experiments import cifar_search, cli
from jaxnas import spaces
from jaxnas.spaces.mbconv import SKIP, Operation


@spaces.described
def tiny(width=1.0, image_size=8, num_classes=10):
    return spaces.mbconv_space(
        "tiny",
        image_size=image_size,
        stem_channels=int(8 * width),
        stages=((int(8 * width), 2, 2),),
        operations=(Operation(3, 2), SKIP),
        project_skip=True,
        head_channels=16,
        num_classes=num_classes,
    )


spaces.SPACES["tiny"] = tiny

if __name__ == "__main__":
    cli.run(cifar_search.main, cifar_search.Config)
