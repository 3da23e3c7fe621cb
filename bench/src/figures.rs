//! The figures that the project promises: what they are called, what they must reach, and in which
//! table each stands. How they are measured is in `measure`.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Something measured. The names are those of `--only` and of the file of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    IdleMemory,
    IdleCpu,
    SmallestJob,
    SmallCountWall,
    SmallCountCpu,
    SmallCountShare,
    TwentyNodes,
    Binary,
    CountCpu,
    CountWall,
    CountShare,
    CountMoved,
    CountMemory,
    Again,
    Appended,
    PythonCount,
    ItemRate,
    ProcessRate,
    ItemMemory,
    ItemThereAndBack,
    CrawlRate,
    CrawlPolite,
    Spark,
    Dask,
    Ray,
    Sort,
    Ingest,
    Transfer,
    RenderOverhead,
    RenderAgain,
    ImageArrival,
    ImageTransfer,
}

/// What a figure must reach.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing: it is only told.
    Told,
}

impl Target {
    /// Whether `reached` is good enough; none where nothing is asked.
    pub(crate) fn is_met(self, reached: f64) -> Option<bool> {
        match self {
            Target::AtMost(target) => Some(reached <= target),
            Target::AtLeast(target) => Some(reached >= target),
            Target::Told => None,
        }
    }
}

/// A line of a table. A figure may stand in several, with other targets.
pub(crate) struct Row {
    pub(crate) figure: Figure,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
    /// What would be better still.
    pub(crate) aim: Option<f64>,
}

impl Row {
    const fn at_most(figure: Figure, what: &'static str, unit: &'static str, target: f64) -> Self {
        Row { figure, what, unit, target: Target::AtMost(target), aim: None }
    }

    const fn at_least(figure: Figure, what: &'static str, unit: &'static str, target: f64) -> Self {
        Row { figure, what, unit, target: Target::AtLeast(target), aim: None }
    }

    const fn told(figure: Figure, what: &'static str, unit: &'static str) -> Self {
        Row { figure, what, unit, target: Target::Told, aim: None }
    }

    const fn aim(mut self, aim: f64) -> Self {
        self.aim = Some(aim);
        self
    }
}

/// Figures that belong together.
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) rows: &'static [Row],
}

/// All tables, in the order of the page.
pub(crate) const TABLES: &[Table] = &[
    Table {
        title: "The main job",
        rows: &[
            Row::at_most(Figure::IdleMemory, "idle node, resident memory", "MB", 40.0),
            Row::at_most(Figure::IdleCpu, "idle node, CPU", "% of a core", 0.5),
            Row::at_most(Figure::SmallestJob, "smallest job, submit to done, p50", "ms", 50.0),
            Row::at_most(Figure::SmallCountWall, "100 MiB word count, wall / native", "×", 4.0),
            Row::at_most(
                Figure::SmallCountCpu,
                "100 MiB word count, CPU of all nodes / native",
                "×",
                3.0,
            ),
            Row::at_least(
                Figure::SmallCountShare,
                "the same, least share of the splits on a node",
                "%",
                25.0,
            ),
            Row::at_most(Figure::TwentyNodes, "`--local 20` ready", "s", 10.0),
            Row::at_most(Figure::Binary, "stripped binary", "MB", 45.0),
        ],
    },
    Table {
        title: "Map-reduce at full strength",
        rows: &[
            Row::at_most(Figure::CountCpu, "1 GiB word count, CPU of all nodes / native", "×", 2.2)
                .aim(1.5),
            Row::at_most(Figure::CountWall, "the same, wall / native", "×", 2.5).aim(1.2),
            Row::at_least(
                Figure::CountShare,
                "the same, least share of the splits on a node",
                "%",
                25.0,
            ),
            Row::told(Figure::CountMoved, "the same, bytes moved between nodes", "MB"),
            Row::at_most(Figure::CountMemory, "the same, peak memory of a node", "MB", 300.0)
                .aim(200.0),
            Row::at_least(Figure::Spark, "CPU of Spark DataFrame / ipdc, word count", "×", 2.5)
                .aim(4.0),
            Row::at_least(Figure::Dask, "CPU of Dask / ipdc, word count", "×", 2.5).aim(4.0),
            Row::at_least(Figure::Ray, "CPU of Ray / ipdc, word count", "×", 2.5).aim(4.0),
            Row::at_most(Figure::Again, "the same 1 GiB count again, from its CID", "s", 0.3)
                .aim(0.15),
            Row::at_most(Figure::Appended, "after 1 % appended, splits mapped", "%", 3.0),
            Row::at_least(
                Figure::PythonCount,
                "100 MiB word count in Python, rate / that of a bare script on all cores",
                "×",
                0.5,
            ),
            Row::at_most(
                Figure::Sort,
                "total sort of 1 GiB with 64 MiB, wall / `LC_ALL=C sort -S64M`",
                "×",
                3.0,
            )
            .aim(1.5),
            Row::at_least(Figure::Ingest, "ingest of 1 GiB, durable, rate / `sha256sum`", "×", 0.4)
                .aim(0.9),
            Row::at_least(
                Figure::Transfer,
                "1 GiB node to node, to disk, verified, rate / plain TCP + sha256 to disk",
                "×",
                0.5,
            )
            .aim(0.8),
            Row::at_most(Figure::SmallestJob, "smallest job, submit to done, p50", "ms", 25.0)
                .aim(8.0),
        ],
    },
    Table {
        title: "Items and crawls",
        rows: &[
            Row::at_least(
                Figure::ItemRate,
                "items that do nothing (Ray 2,190, Dask 580)",
                "/s",
                5000.0,
            )
            .aim(20_000.0),
            Row::at_least(
                Figure::ProcessRate,
                "items that are native programs, a process each, that do nothing",
                "/s",
                600.0,
            ),
            Row::at_most(
                Figure::ItemMemory,
                "100,000 items in a job, memory of its controller",
                "MB",
                150.0,
            ),
            Row::at_most(
                Figure::ItemThereAndBack,
                "an item into a running job and back, p50 (Ray 1.6)",
                "ms",
                5.0,
            )
            .aim(1.6),
            Row::at_least(
                Figure::CrawlRate,
                "crawl of 10,000 pages, politeness off",
                "pages/s",
                1000.0,
            ),
            Row::at_most(
                Figure::CrawlPolite,
                "crawl with a limit, requests a second / the limit",
                "%",
                100.5,
            ),
        ],
    },
    Table {
        title: "Renderings",
        rows: &[
            Row::at_most(
                Figure::RenderOverhead,
                "frames of 2 s and more, wall over that of `docker run`",
                "%",
                10.0,
            ),
            Row::at_most(Figure::RenderAgain, "the same again, containers started", "", 0.0),
            Row::at_least(
                Figure::ImageArrival,
                "image of 200 MB to a second node, rate / that of a file",
                "×",
                0.5,
            ),
            Row::at_least(
                Figure::ImageTransfer,
                "image of 200 MB to the engine of a second node, rate / that of a file",
                "×",
                0.5,
            ),
        ],
    },
];
