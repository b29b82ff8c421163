//! What a state would be if commands that are not known to be committed were applied: in a change that is given up again,
//! so that nothing happened.

use super::control::{ControlState, ControlView};
use super::log_group::{LogGroupState, Work};
use super::queries::{LogView, logs_of};
use bytes::Bytes;
use farside_codec::Field;
use farside_codec::command::{ControlCommand, GroupCommand};
use farside_raft::StateError;

impl LogGroupState {
    /// The group's logs as they would be.
    pub fn preview(&self, commands: &[Bytes]) -> Result<Vec<LogView>, StateError> {
        let change = self.database.write()?;
        let work = Work { change: &change, group: self.group, site: self.site };
        for command in commands {
            work.apply(GroupCommand::from_bytes(command.clone()).map_err(StateError::Unreadable)?)?;
        }
        logs_of(&change, self.group)
    }
}

impl ControlState {
    /// The site as it would be.
    pub fn preview(&self, commands: &[Bytes]) -> Result<ControlView, StateError> {
        let change = self.database().write()?;
        let mut view = (*self.view()).clone();
        for command in commands {
            let command = ControlCommand::from_bytes(command.clone()).map_err(StateError::Unreadable)?;
            Self::apply_one(&change, &mut view, command)?;
        }
        Ok(view)
    }
}
