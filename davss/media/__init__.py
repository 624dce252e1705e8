"""Reading and writing of recordings: audio, video and the mouth region of a face."""

FPS = 25  # video frames a second, of lips everywhere
CROP = 96  # pixels of a side of a mouth crop
