"""Soft filling: image features splatted into the cells around each lifted point."""
