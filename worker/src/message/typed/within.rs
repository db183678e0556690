//! Reads the values inside lists, objects and enums.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::value::RawValue;

use super::Node;

/// A serde_json visitor or accessor of a list, an object or an enum, wrapped so that each value in it is read as a
/// [`Node`] again.
pub(super) struct Within<'de, 'f, T> {
    pub(super) inner: T,
    pub(super) node: Node<'de, 'f>,
}

impl<'de, T> Within<'de, '_, T> {
    fn read<S: DeserializeSeed<'de>, E: Error>(&self, seed: S, value: &'de RawValue) -> Result<S::Value, E> {
        seed.deserialize(self.node.child(value)).map_err(E::custom)
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Within<'de, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(self.node.within(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(self.node.within(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(self.node.within(variant))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Within<'de, '_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let value = self.inner.next_element::<&'de RawValue>()?;
        value.map(|value| self.read(seed, value)).transpose()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Within<'de, '_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let value = self.inner.next_value::<&'de RawValue>()?;
        self.read(seed, value)
    }
}

impl<'de, 'f, A: EnumAccess<'de>> EnumAccess<'de> for Within<'de, 'f, A> {
    type Error = A::Error;
    type Variant = Within<'de, 'f, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, content) = self.inner.variant_seed(seed)?;
        Ok((name, self.node.within(content)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Within<'de, '_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let Within { inner, node } = self;
        let value = inner.newtype_variant::<&'de RawValue>()?;
        node.within(()).read(seed, value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        let value = self.inner.newtype_variant::<&'de RawValue>()?;
        self.node.child(value).deserialize_tuple(length, visitor).map_err(Error::custom)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let value = self.inner.newtype_variant::<&'de RawValue>()?;
        self.node.child(value).deserialize_struct("", fields, visitor).map_err(Error::custom)
    }
}
