//! Logging in to a token: its module, its slot, a session, and what each answer of it means.
//!
//! Left out on purpose: unloading modules and logging out. Both count for a whole process, and something else in it may
//! use the same module. For the same reason a process that has logged in to a token is not asked for its PIN again.

use super::Connection;
use super::address::Address;
use crate::kms::KmsError;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The modules that this process has loaded, by path. They stay: C_Initialize counts for a whole process.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Mutex<Module>>>> = Mutex::new(BTreeMap::new());

/// One module of this process. Its lock is held while somebody logs in, so that no two try one wrong PIN at a time.
#[derive(Default)]
struct Module {
    library: Option<Pkcs11>,
    /// The PINs that a token refused, as its label with its serial number, and a mark of the PIN. Each more try would
    /// bring the token closer to locking itself.
    refused: HashSet<(String, u64)>,
}

/// A poisoned lock guards nothing half done here: every value under one is replaced whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads a module and initializes it, unless another part of the process has done so.
fn load(path: &Path) -> Result<Pkcs11, Error> {
    let library = Pkcs11::new(path)?;
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(library),
        Err(error) => Err(error),
    }
}

pub(super) fn is_logged_in(session: &Session) -> Result<bool, Error> {
    Ok(matches!(session.get_session_info()?.session_state(), SessionState::RoUser | SessionState::RwUser))
}

/// The name that PKCS#11 has for an answer: the crate has it in camel case.
fn name_of(code: RvError) -> String {
    let mut name = "CKR".to_owned();
    for character in format!("{code:?}").chars() {
        name.extend(character.is_ascii_uppercase().then_some('_'));
        name.push(character.to_ascii_uppercase());
    }
    name
}

/// Why an operation did not succeed.
pub(super) enum Refusal {
    /// The token or its module said so: a new session may help.
    Token(Error),
    /// This module said so.
    Final(KmsError),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Token(error)
    }
}

impl Refusal {
    /// Whether a new session may help. An operation that is still active was left behind by one that failed; handles
    /// change where a token in the network fails over.
    pub(super) fn is_of_session(&self) -> bool {
        use RvError::*;
        let Self::Token(Error::Pkcs11(code, _)) = self else { return false };
        matches!(
            code,
            SessionHandleInvalid
                | SessionClosed
                | DeviceRemoved
                | UserNotLoggedIn
                | OperationActive
                | KeyHandleInvalid
                | ObjectHandleInvalid
        )
    }
}

impl Address {
    /// The slot that has the token. One that can't be read is passed over, unless it may be the one.
    fn select(&self, library: &Pkcs11) -> Result<(Slot, TokenInfo), Refusal> {
        let (mut fitting, mut trouble) = (Vec::new(), None);
        for slot in library.get_slots_with_token()? {
            match library.get_token_info(slot) {
                Ok(info) if self.fits(slot, &info) => fitting.push((slot, info)),
                Ok(_) => {}
                Err(error) => trouble = Some(error),
            }
        }
        match (fitting.pop(), fitting.is_empty(), trouble) {
            (Some(only), true, _) => Ok(only),
            (Some(_), false, _) => {
                let why = "several tokens fit: name one by serial".to_owned();
                Err(Refusal::Final(KmsError::Url { url: self.url.clone(), why }))
            }
            (None, _, Some(error)) => Err(Refusal::Token(error)),
            (None, _, None) => Err(Refusal::Final(self.unreachable("no token that fits is present".to_owned()))),
        }
    }

    pub(super) fn connect(self: &Arc<Self>) -> Result<Connection, Refusal> {
        let module = lock(&MODULES).entry(self.module.clone()).or_default().clone();
        let mut module = lock(&module);
        let library = match &module.library {
            Some(library) => library.clone(),
            None => load(&self.module)?,
        };
        module.library = Some(library.clone());
        let (slot, info) = self.select(&library)?;
        let session = library.open_ro_session(slot)?;
        if !is_logged_in(&session)? {
            self.log_in(&session, &info, &mut module.refused)?;
        }
        Ok(Connection { address: self.clone(), library, slot, session })
    }

    /// Gives the token the PIN, at most once if it is wrong.
    fn log_in(&self, session: &Session, info: &TokenInfo, refused: &mut HashSet<(String, u64)>) -> Result<(), Refusal> {
        let attempt = (format!("{} {}", info.label(), info.serial_number()), self.pin_mark);
        let file = self.pin_file.display();
        let reason = if refused.contains(&attempt) {
            format!(
                "the token refused the PIN in {file} before: this process does not try it again, since that would lock \
                 the token"
            )
        } else if info.user_pin_locked() {
            "the PIN is locked after too many wrong ones: the token's security officer has to unlock it".to_owned()
        } else if info.user_pin_final_try() {
            format!(
                "one more wrong PIN locks the token, so the one in {file} is not tried: log in with another tool first"
            )
        } else {
            return match session.login(UserType::User, Some(&self.pin)) {
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
                Err(error) => {
                    use RvError::{PinIncorrect, PinInvalid, PinLenRange};
                    if matches!(error, Error::Pkcs11(PinIncorrect | PinInvalid | PinLenRange, _)) {
                        refused.insert(attempt);
                    }
                    Err(Refusal::Token(error))
                }
            };
        };
        Err(Refusal::Final(self.denied(reason)))
    }

    pub(super) fn denied(&self, why: String) -> KmsError {
        KmsError::Denied { kms: self.url.clone(), why }
    }

    pub(super) fn unreachable(&self, why: String) -> KmsError {
        KmsError::Unreachable { kms: self.url.clone(), why }
    }

    pub(super) fn failed(&self, why: String) -> KmsError {
        KmsError::Failed { kms: self.url.clone(), why }
    }

    pub(super) fn no_key(&self, key: String) -> KmsError {
        KmsError::NoKey { kms: self.url.clone(), key }
    }

    /// What a refusal means for whoever asked.
    pub(super) fn explain(&self, refusal: Refusal) -> KmsError {
        use RvError::*;
        let (code, function) = match refusal {
            Refusal::Final(error) => return error,
            Refusal::Token(Error::Pkcs11(code, function)) => (code, function),
            Refusal::Token(error @ (Error::LibraryLoading(_) | Error::MissingSymbol(_))) => {
                return self.unreachable(format!("{} can't be loaded: {error}", self.module.display()));
            }
            Refusal::Token(error) => return self.failed(error.to_string()),
        };
        let why = format!("C_{function:?} answered {}", name_of(code));
        match code {
            PinIncorrect | PinInvalid | PinLenRange => self.denied(format!(
                "{why}: the PIN in {} is wrong, and is not tried again, since that would lock the token",
                self.pin_file.display()
            )),
            PinLocked => self.denied(format!(
                "{why}: the PIN is locked after too many wrong ones, and the token's security officer has to unlock it"
            )),
            PinExpired
            | UserPinNotInitialized
            | UserNotLoggedIn
            | UserAnotherAlreadyLoggedIn
            | UserTooManyTypes
            | UserTypeInvalid
            | SessionReadWriteSoExists
            | SessionReadOnly
            | TokenWriteProtected
            | ActionProhibited
            | KeyFunctionNotPermitted
            | FunctionRejected => self.denied(why),
            TokenNotPresent | TokenNotRecognized | DeviceRemoved | DeviceError | SlotIdInvalid | LibraryLoadFailed
            | SessionClosed | SessionHandleInvalid => self.unreachable(why),
            _ => self.failed(why),
        }
    }
}
