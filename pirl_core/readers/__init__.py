"""One reader for each kind of file, with limits: whatever a file holds, it is read or refused in one line.

``text`` reads text, JSON and lines of JSON; ``tables`` parquet; ``tensors`` safetensors; ``pictures`` PNG and JPEG;
``archives`` zip files and numpy's arrays in them; ``strict_yaml`` YAML. Only regular files are opened, so a pipe or a
device in a file's place blocks nothing. Callers say the remedy, which ends the line.
"""
