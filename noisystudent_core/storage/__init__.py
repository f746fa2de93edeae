"""Where artifacts live: folders on any fsspec file system, and the manifest that ends each of them."""
