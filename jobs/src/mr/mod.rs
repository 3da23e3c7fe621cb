//! The map-reduce kind.
use bytes::Bytes;
use serde_json::Value;

use crate::ids::TaskId;
use crate::kind::{Host, JobFiles, Kind, PlanError, TaskError, TaskSpec, Tree, Work};
use crate::message::Payload;
use crate::spec::{JobSpec, SpecError};

/// Map-reduce.
pub struct MapReduce;

impl Kind for MapReduce {
    fn name(&self) -> &'static str {
        "mr"
    }
    fn stages(&self) -> &'static [&'static str] {
        &["map", "reduce"]
    }
    fn configure(&self, _: &JobSpec, _: &dyn JobFiles) -> Result<Value, Vec<SpecError>> {
        Ok(Value::Null)
    }
    fn runtimes(&self, _: &Value) -> std::collections::BTreeSet<crate::engine::Runtime> {
        [crate::engine::Runtime::Wasm].into()
    }
    fn plan(&self, _: &Value, _: &dyn Tree) -> Result<Vec<TaskSpec>, PlanError> {
        Ok(vec![])
    }
    fn pick(&self, _: &TaskSpec, output: &Payload) -> Payload {
        output.clone()
    }
    fn finish(&self, _: &[(TaskId, Payload)]) -> Result<Vec<crate::kind::ResultFile>, PlanError> {
        Ok(vec![])
    }
    fn run(&self, _: &Work<'_>, _: &dyn Host) -> Result<Payload, TaskError> {
        Ok(Payload::Inline(Bytes::new()))
    }
}
