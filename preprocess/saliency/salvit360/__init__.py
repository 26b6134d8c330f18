"""The `salvit360` saliency backend: the published network SalViT360 in PyTorch."""
