"""The voices of one or several engines by name: `en-us+f2` of espeak, `flite:slt` of another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from moonshine_tune.audio.moonshine_engine import MoonshineEngine
from moonshine_tune.audio.program_engines import CommandEngine, FliteEngine, SayEngine
from moonshine_tune.audio.samples import Samples
from moonshine_tune.audio.speech_engine import EspeakEngine, Prosody, SpeechEngine
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import did_you_mean, quoted

ENGINES = ("espeak", "moonshine", "say", "flite", "command")
# Names of its voices stand alone: they were there first.
_PLAIN = EspeakEngine.name


class VoicePool:
    """Open engines and their voices. Use it as a context manager, or close it."""

    def __init__(self, engines: Sequence[SpeechEngine]) -> None:
        self._engines = {engine.name: engine for engine in engines}

    @classmethod
    def open(
        cls, names: Sequence[str], progress: Progress, *, command: str | None = None
    ) -> "VoicePool":
        """Open engines by name; of several, those that do not work here are left out and named.

        Args:
            command: the command line of the engine `command`.

        Raises:
            RequestError: no such engine, or a command line without its engine or the reverse.
            MachineError: none of them works here.
        """
        if wrong := next((name for name in names if name not in ENGINES), None):
            raise RequestError(
                f"no engine is called {wrong!r}{did_you_mean(wrong, ENGINES)}",
                hint=f"one or several of: {', '.join(ENGINES)}",
            )
        if (command is not None) != (CommandEngine.name in names):
            raise RequestError(
                "--engine command and --engine-command belong together",
                hint="such as: --engine command --engine-command 'program {text_file} {out}'",
            )
        makers: Mapping[str, Callable[[], SpeechEngine]] = {
            "espeak": EspeakEngine,
            "moonshine": lambda: MoonshineEngine(progress),
            "say": SayEngine,
            "flite": FliteEngine,
            "command": lambda: CommandEngine(command or ""),
        }
        engines: list[SpeechEngine] = []
        refused: list[MachineError] = []
        for name in dict.fromkeys(names):
            try:
                engine = makers[name]()
                engines.append(engine)
                for voice in engine.voice_sets()["train"][:1]:
                    engine.check_voice(voice)
            except MachineError as error:
                if engines and engines[-1].name == name:
                    engines.pop().close()
                refused.append(error)
                if len(names) > 1:
                    progress.say(f"{name} is left out: {error.message}")
        if not engines:
            raise refused[0]
        return cls(engines)

    def voices(self, voice_set: str) -> tuple[str, ...]:
        """The voices of a split (train, dev, test, or all of them), alternating between engines."""
        splits = ("train", "dev", "test") if voice_set == "all" else (voice_set,)
        by_engine = [
            [
                self._full_name(engine, voice)
                for split in splits
                for voice in engine.voice_sets()[split]
            ]
            for engine in self._engines.values()
        ]
        longest = max(map(len, by_engine), default=0)
        ordered = (names[n] for n in range(longest) for names in by_engine if n < len(names))
        return tuple(dict.fromkeys(ordered))

    @property
    def versions(self) -> dict[str, str]:
        """The version of each engine."""
        return {name: engine.version for name, engine in self._engines.items()}

    @property
    def is_slow(self) -> bool:
        """Whether some engine takes long for a clip."""
        return any(engine.is_slow for engine in self._engines.values())

    def engine_of(self, voice: str) -> tuple[SpeechEngine, str]:
        """The engine of a voice, and its name there.

        Raises:
            RequestError: the engine that it names is not open.
        """
        prefix, colon, name = voice.partition(":")
        if colon and prefix in self._engines:
            return self._engines[prefix], name
        if colon and prefix in ENGINES:
            raise RequestError(
                f"the voice {voice!r} needs the engine {prefix}",
                hint=f"add it: --engine {quoted(prefix)}",
            )
        if len(self._engines) == 1:
            return next(iter(self._engines.values())), voice
        if _PLAIN in self._engines:
            return self._engines[_PLAIN], voice
        choices = " or ".join(quoted(f"{engine}:{voice}") for engine in self._engines)
        raise RequestError(
            f"the voice {voice!r} can be of {' or '.join(self._engines)}",
            hint=f"name it with its engine: {choices}",
        )

    def speaker_of(self, voice: str) -> str:
        """The name of a voice in manifests, which is the same whatever engines are open."""
        return self._full_name(*self.engine_of(voice))

    def check_voice(self, voice: str) -> None:
        """Refuse a voice that does not exist.

        Raises:
            RequestError: no such voice.
            MachineError: it cannot be fetched.
        """
        engine, name = self.engine_of(voice)
        engine.check_voice(name)

    def speak(self, text: str, voice: str, prosody: Prosody) -> Samples:
        """As of `SpeechEngine.speak`."""
        engine, name = self.engine_of(voice)
        return engine.speak(text, name, prosody)

    def close(self) -> None:
        """Close all engines."""
        for engine in self._engines.values():
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _full_name(engine: SpeechEngine, voice: str) -> str:
        return voice if engine.name == _PLAIN else f"{engine.name}:{voice}"
