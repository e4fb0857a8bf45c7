"""The key of Model Signing's format, which knows no Ed25519: ECDSA on P-256 with SHA-256.

Source: FIPS 186-5.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError
from shipworthy.security.files import create_durably
from shipworthy.security.keys import create_private_file, read_private_file

PRIVATE_SUFFIX = ".model.key"
PUBLIC_SUFFIX = ".model.pem"


@dataclass(frozen=True, slots=True)
class PublicModelKey:
    """What anybody may hold."""

    pem: bytes

    @property
    def hint(self) -> str:
        """How a Model Signing bundle names its key."""
        return sha256(self.pem).hexdigest()

    def verify(self, content: bytes, signature: bytes) -> None:
        """Return only if `signature` was made over `content` by the private half.

        Raises:
            IntegrityError: it was not, or this is no key of P-256.
        """
        try:
            key = load_pem_public_key(self.pem)
            if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
                raise ValueError("another kind of key")
            key.verify(signature, content, ECDSA(SHA256()))
        except (InvalidSignature, ValueError, TypeError):
            raise IntegrityError("The model's signature does not match its content.") from None


class ModelKey:
    """A private key that signs models."""

    __slots__ = ("_private", "public")

    def __init__(self, private: EllipticCurvePrivateKey) -> None:
        self._private = private
        public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public = PublicModelKey(public)

    def sign(self, content: bytes) -> bytes:
        """The DER signature over `content`; another one each time."""
        return self._private.sign(content, ECDSA(SHA256()))


def open_model_key(directory: Path, public_keys: Path, name: str) -> ModelKey:
    """The model key `NAME.model.key` of `directory`, made at first use; its public half lies in `public_keys`.

    Raises:
        AccessError: others can read the key or look into its directory.
        IntegrityError: the file is not a key of P-256.
        ConflictError: the project has the public half of another one.
    """
    path = directory / (name + PRIVATE_SUFFIX)
    try:
        key = ModelKey(_parse(read_private_file(path), path))
    except NotFoundError:
        private = generate_private_key(SECP256R1())
        create_private_file(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key = ModelKey(private)
    public = public_keys / (name + PUBLIC_SUFFIX)
    public_keys.mkdir(parents=True, exist_ok=True)
    if not create_durably(public, key.public.pem, mode=0o644) and public.read_bytes() != key.public.pem:
        raise ConflictError(f"{public} holds another key than {path}; copy the private half from where it was made.")
    return key


def model_keys(public_keys: Path) -> dict[str, PublicModelKey]:
    """The model keys that are believed, by hint."""
    found = [PublicModelKey(path.read_bytes()) for path in sorted(public_keys.glob("*" + PUBLIC_SUFFIX))]
    return {key.hint: key for key in found}


def _parse(content: bytes, path: Path) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise IntegrityError(f"{path} is not a PEM private key.") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise IntegrityError(f"{path} is not a key of P-256; make a new one.")
    return key
