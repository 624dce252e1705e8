"""`python -m davss.serving.looking RECORDING OUT.json`: who is seen, to choose from.

OUT.json holds its length (`seconds`), `notes`, and its `faces` as a separation.json lists them,
each with a `picture`, a URL that holds it; whether their lips are of use is not judged.
"""

import json
import sys
from pathlib import Path

from davss.cli.faces import find_faces, thumbnails
from davss.cli.inputs import read_recording
from davss.cli.preview import thumbnail
from davss.errors import DavssError, ending_in_one_line
from davss.media.decoding import has_stream
from davss.storage import publish


def look(path: Path, out: Path) -> None:
    """Write the faces of a recording. DavssError where it has no sound to separate; a picture that
    cannot be used is a note.
    """
    sound, faces = read_recording(path), []
    if has_stream(path, "video"):
        try:
            cast, _ = find_faces(path, sound)
            pictures = thumbnails(path, sound, cast.faces) if cast.faces else []
            rows = zip(cast.report(), pictures, strict=True)
            faces = [row | {"picture": thumbnail(picture)} for row, picture in rows]
        except DavssError as error:
            sound.notes.append(str(error))
    for row in faces:
        del row["lips"]
    notes = [note.replace(str(path), path.name) for note in (*sound.notes, *sound.warnings)]
    with publish(out) as temporary:
        temporary.write_text(json.dumps({"seconds": sound.seconds, "faces": faces, "notes": notes}))


if __name__ == "__main__":
    with ending_in_one_line():
        look(*map(Path, sys.argv[1:3]))
