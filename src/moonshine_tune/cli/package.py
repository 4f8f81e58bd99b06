"""`moonshine-tune package`, `verify` and `push`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show
from moonshine_tune.core.text import quoted

_PACKAGE_EXAMPLE = (
    "Example: moonshine-tune package --run runs/a --runtime-dir exported --evaluation eval/a "
    "--benchmark bench/a --with-sample test.jsonl --out my-model.tar.gz"
)
_VERIFY_EXAMPLE = "Example: moonshine-tune verify my-model.tar.gz"
_PUSH_EXAMPLE = "Example: moonshine-tune push my-model.tar.gz --to me/tiny-air-traffic"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("package", epilog=_PACKAGE_EXAMPLE)(package)
    app.command("verify", epilog=_VERIFY_EXAMPLE)(verify)
    app.command("push", epilog=_PUSH_EXAMPLE)(push)


def package(
    run: Annotated[Path, Option(help="Run folder of `train`.")],
    runtime_dir: Annotated[Path, Option(help="Runtime folder of `export`.")],
    out: Annotated[Path, Option(help="Folder or .tar.gz to write.")],
    evaluation: Annotated[
        list[Path] | None,
        Option(help="Folder of `evaluate` on the adapted model; may come several times."),
    ] = None,
    base_evaluation: Annotated[
        list[Path] | None, Option(help="Folder of `evaluate` on the base; may come several times.")
    ] = None,
    benchmark: Annotated[Path | None, Option(help="Folder of `benchmark`.")] = None,
    with_sample: Annotated[
        Path | None, Option(help="Manifest of test clips: three short ones are packed, as audio.")
    ] = None,
    aliases: Annotated[
        Path | None, Option(help="File of `data aliases`, with code that applies it.")
    ] = None,
    allow_failed_parity: Annotated[
        bool, Option("--allow-failed-parity", help="Pack files that failed the parity gate.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Pack a model with its card, its proofs and the commands that make it again."""
    from moonshine_tune.release.inputs import PackageRequest
    from moonshine_tune.release.package import package as run_package

    request = PackageRequest(
        run=run,
        runtime_dir=runtime_dir,
        evaluations=tuple(evaluation or ()),
        base_evaluations=tuple(base_evaluation or ()),
        benchmark=benchmark,
        sample=with_sample,
        allow_failed_parity=allow_failed_parity,
        aliases=aliases,
    )
    result = run_package(request, out, TerminalProgress())
    lines = [f"wrote {out}: {result.files} files, {result.bytes / 1e6:.1f} MB, "
             f"sha256 {result.sha256[:12]}"]  # fmt: skip
    if result.missing:
        lines.append(f"the card names as not measured: {', '.join(result.missing)}")
    if result.sample_clips:
        lines.append(f"it holds {result.sample_clips} recordings, in sample/")
    lines += result.remarks
    lines.append(f"check it with: moonshine-tune verify {quoted(out)}")
    show("\n".join(lines), result, as_json=as_json)


def verify(
    package: Annotated[Path, Argument(help="Folder or archive of `package`.")],
    sample_bound: Annotated[
        float | None,
        Option(
            min=0,
            help="Percent of the sample's words that may differ [default: 0 on the same kind of "
            "machine, else 10].",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that a package is complete, and that its model gives the same transcripts here."""
    from moonshine_tune.release.verify import verify as run_verify

    result = run_verify(package, TerminalProgress(), sample_bound=sample_bound)
    if result.passed:
        lines = [f"{package} is complete: {result.files} files as recorded, the runtime loads it"]
        if result.sample:
            lines.append(
                f"the sample: {result.sample.identical} of {result.sample.clips} clips have the "
                "recorded transcript"
            )
    else:
        lines = [f"{package} is NOT what was packed", *result.problems[:10]]
        if len(result.problems) > 10:
            lines.append(f"… and {len(result.problems) - 10} more")
    show("\n".join([*lines, *result.remarks]), result, as_json=as_json)
    refuse(not result.passed)


def push(
    package: Annotated[Path, Argument(help="Folder or archive of `package`.")],
    to: Annotated[str, Option("--to", help="Repository on the hub: OWNER/NAME.")],
    public: Annotated[
        bool, Option("--public", help="Make a new repository public [default: private].")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Publish a package's adapter and model card on a model hub, and nothing else of it."""
    from moonshine_tune.release.push import push as run_push

    result = run_push(package, to, TerminalProgress(), private=not public)
    text = f"sent to {result.repo}: {', '.join(result.files)}"
    show(text, result, as_json=as_json)
